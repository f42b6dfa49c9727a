"""The server: rounds of Flower's strategy over the adapter. Each is on disk before the next begins."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from prge.commands.plots import plot_rounds
from prge.federated.admission import evaluations
from prge.federated.rounds import Rounds
from prge.federated.secure import summed
from prge.federated.settings import Settings
from prge.federated.strategies import strategy_of

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds that are left: a server that was killed goes on behind the last whole one."""
    settings = Settings.read(context.run_config)
    with Rounds(settings) as rounds:
        strategy = rounds.restored(strategy_of(settings, rounds.way.name))
        for number in rounds.left():
            asked = strategy.configure_train(number, rounds.arrays, rounds.order(number), grid)
            if settings.privacy == "secure":
                replies = summed(grid, context, rounds, asked, settings.timeout)
            else:
                replies = rounds.noted(grid.send_and_receive(rounds.sent(asked), timeout=settings.timeout))
            arrays, metrics = strategy.aggregate_train(number, rounds.admitted(number, replies))
            rounds.take(number, arrays)
            asked = strategy.configure_evaluate(number, rounds.arrays, rounds.order(number), grid)
            replies = rounds.noted(grid.send_and_receive(rounds.sent(asked), timeout=settings.timeout))
            rounds.close(number, strategy, metrics, strategy.aggregate_evaluate(number, evaluations(replies)))
        print(f"the adapter: {rounds.finish()}")
        plot_rounds(rounds.folder / "rounds.png", rounds.rows)
