"""Flower's strategies, as a federation's settings name them."""

from __future__ import annotations

from typing import Any

from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAdam,
    FedAvg,
    FedTrimmedAvg,
    MultiKrum,
    Strategy,
)

from prge.errors import UserError
from prge.federated.order import ARRAYS, CONFIG, SLOPES
from prge.federated.secure import masked
from prge.federated.settings import Settings


def strategy_of(settings: Settings, name: str) -> Strategy:
    """The strategy of a federation whose array is ``name``.

    Raises:
        UserError: slopes travel, and strategy or privacy are for parameters.
    """
    if name == SLOPES and (settings.strategy == "fedadam" or settings.privacy != "none"):
        raise UserError(
            "where slopes travel, the program's own optimizer goes on, and Flower's clipping has no parameters to "
            'compare: set strategy = "fedavg", "trimmed-mean" or "krum", and privacy = "none"'
        )
    if settings.privacy == "secure" and settings.strategy in ("trimmed-mean", "krum"):
        raise UserError(
            f"{settings.strategy} compares single answers, and with secure aggregation the server has none: set "
            'strategy = "fedavg" or "fedadam", or another privacy'
        )
    devices = max(1, round(settings.fraction * settings.devices))
    common: dict[str, Any] = {
        "fraction_train": settings.fraction, "min_train_nodes": devices,
        "fraction_evaluate": settings.evaluating, "min_evaluate_nodes": 1 if settings.evaluating else 0,
        "min_available_nodes": settings.devices, "arrayrecord_key": ARRAYS, "configrecord_key": CONFIG,
    }  # fmt: skip
    strategy: Strategy
    if settings.strategy == "fedadam":
        strategy = FedAdam(**common, eta=settings.server_lr, tau=1e-8)
    elif settings.strategy == "trimmed-mean":
        strategy = FedTrimmedAvg(**common, beta=settings.outliers)
    elif settings.strategy == "krum":
        wrong = round(settings.outliers * devices)
        strategy = MultiKrum(**common, num_malicious_nodes=wrong, num_nodes_to_select=max(1, devices - wrong))
    else:
        strategy = FedAvg(**common)
    if settings.privacy == "central":
        return DifferentialPrivacyClientSideFixedClipping(strategy, settings.noise, settings.clip, devices)
    return strategy


def hidden(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower's mod for the federation's ``privacy``, on the device: it clips, adds noise, or masks what is sent."""
    settings = Settings.read(context.run_config)
    if settings.privacy == "central":
        return fixedclipping_mod(message, context, call_next)
    if settings.privacy == "local":
        # Two answers of one device differ by at most twice the clipping norm.
        mod = LocalDpMod(settings.clip, 2 * settings.clip, settings.epsilon, settings.delta)
        return mod(message, context, call_next)
    return masked(message, context, call_next) if settings.privacy == "secure" else call_next(message, context)
