"""A device: it trains the adapter on its own examples, and sends parameters or slopes. The examples stay."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from prge.federated.device import reply
from prge.federated.strategies import hidden

app = ClientApp()


@app.train(mods=[hidden])
def train(message: Message, context: Context) -> Message:
    """A round's steps on this device's examples."""
    return reply(message, context, lambda device: device.answer_training(message.content, context.state))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How good the server's adapter is on examples that this device does not train on."""
    return reply(message, context, lambda device: device.answer_evaluation(message.content, context.state))
