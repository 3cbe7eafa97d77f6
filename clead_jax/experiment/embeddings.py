"""What a stage does with embeddings: which it compares, with which teacher, and how attacks move them."""

from typing import Any

import jax
import numpy as np

from clead_jax import config
from clead_jax.attacks.objectives import OF_EMBEDDINGS, kl, likeliest_others
from clead_jax.config import Config, Contrastive
from clead_jax.core import numerics, sharding, spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array, Forward, Key, NamedAttack, PyTree, Targeted
from clead_jax.experiment import builders
from clead_jax.losses.contrastive import SIMILARITIES
from clead_jax.models import Network
from clead_jax.training import encoding, momentum, views


def check(cfg: Config, name: str, attacks: list[NamedAttack], unattacked: int) -> None:
    """Raises ValueError for a stage whose attacks, teacher, encoding or compared outputs do not fit together.

    `attacks` are its attacked views, `unattacked` is the number of the others.
    """
    _check_encoding(cfg[name], name, len(attacks), unattacked)
    start_list(cfg, name)
    own, words = cfg[name], config.distances(cfg[name].ascend)
    for attack in attacks:
        if bool(words) != (attack.objective in OF_EMBEDDINGS):
            known = ", ".join(objective.__name__ for objective in OF_EMBEDDINGS)
            which = f"takes an objective of embeddings ({known})" if words else "takes an objective of logits"
            raise ValueError(f"{name}: {attack.name!r} cannot be maximised, for {name}.ascend={own.ascend} {which}")
        if own.goal and attack.objective is kl:
            raise ValueError(f"{name}.goal is {own.goal!r}, but {attack.name!r} moves away from the clean logits")
    beginnings = unattacked + len(spec.items(getattr(own, "starts", "")))
    if own.ascend in ("partner", "pairs") and beginnings < 2:
        raise ValueError(f"{name}.ascend is {own.ascend!r}: two views must not be attacked, as in clean,augmented,pgd")
    if own.ascend == "pairs" and [attack.settings for attack in attacks] != 2 * [a.settings for a in attacks[:1]]:
        raise ValueError(f"{name}.ascend is 'pairs': two views must be attacked, and alike, as in clean,clean,pgd,pgd")
    if not isinstance(own, Contrastive):
        if words or own.ascend in ("partner", "pairs"):
            raise ValueError(f"{name}.ascend is {own.ascend!r}; a stage of kind {own.kind} compares no embeddings")
        return
    compares = spec.items(own.compares)
    if not compares or not set(compares) <= {*encoding.PARTS}:
        raise ValueError(f"{name}.compares is {own.compares!r}; it can be {', '.join(encoding.PARTS)}, or both")
    if words and len(words) != len(compares):
        raise ValueError(f"{name}.ascend is {own.ascend!r}; it needs one word for each of {name}.compares")
    if LOSSES[spec.parse(own.loss)[0]].info.get("of") == "teacher" and not own.teacher:
        raise ValueError(f"{name}.loss is {own.loss!r}, which needs a teacher: {name}.teacher names a stage")


def _check_encoding(own: Any, name: str, attacked: int, unattacked: int) -> None:
    if own.encoding not in encoding.ENCODERS:
        raise ValueError(f"{name}.encoding is {own.encoding!r}; it can be {', '.join(encoding.ENCODERS)}")
    if own.encoding != "dual":
        return
    if not (attacked and unattacked):
        raise ValueError(f"{name}.encoding is 'dual': some views must be attacked and some not, as in clean,pgd")
    if "backbone" not in spec.items(own.trains):
        raise ValueError(
            f"{name}.encoding is 'dual', but {name}.trains is {own.trains!r}: the backbone is to be trained"
        )
    if own.average:
        said = "batch statistics of averaged weights are estimated on clean images"
        raise ValueError(f"{name}.average is {own.average!r} with encoding 'dual': {said}; leave it empty")


def start_list(cfg: Config, name: str) -> tuple[views.Draw | str, ...]:
    """What attacks of a stage start from besides its views. ValueError for what is attacked itself."""
    texts = spec.items(getattr(cfg[name], "starts", ""))
    if wrong := [text for text in texts if spec.parse(text)[0] not in views.UNATTACKED]:
        raise ValueError(f"{name}.starts: {wrong[0]!r} is not one of {', '.join(views.UNATTACKED)}")
    return tuple(text if text in views.PLAIN else builders.draw(cfg, text) for text in texts)


def two_norms(cfg: Config, name: str) -> bool:
    """Whether a stage's weights hold a second copy of every BatchNorm: it trains them, or has them from its start."""
    source = config.origin(cfg, name)
    return cfg[name].encoding == "dual" or bool(source and two_norms(cfg, source[0]))


def trained(own: Any) -> tuple[str, ...]:
    """The parts that a stage trains."""
    return spec.items(own.trains) + ((encoding.NORMS,) if own.encoding == "dual" else ())


def target(own: Any, net: Network, whole: views.Whole) -> views.Target | None:
    """What attacks on embeddings maximise, None where they maximise something of a classifier."""
    if words := config.distances(own.ascend):
        outputs = encoding.outputs(net, spec.items(own.compares))
        return views.distance(net, outputs, tuple(word == "teacher" for word in words))
    if own.ascend == "partner":
        return views.partner(net, SIMILARITIES[own.similarity], own.temperature, whole)
    if own.ascend == "pairs":
        return views.pairs(net, SIMILARITIES[own.similarity], own.temperature)
    return None


def to_likeliest(target: views.Target) -> views.Target:
    """The same attack, led to the output that is the largest of the unattacked images, their own left aside."""

    def targeted(variables: PyTree, reference: PyTree, base: views.Base, labels: Array) -> tuple[Forward, PyTree]:
        forward, own = target(variables, reference, base, labels)
        return forward, Targeted(own, likeliest_others(forward(base.start), own, 1)[:, 0])

    return targeted


def width(own: Any, net: Network, image_shape: tuple[int, ...]) -> int:
    """How many numbers an embedding has, of those that the loss of a stage compares."""
    outputs = encoding.outputs(net, spec.items(getattr(own, "compares", "projector")))

    def embed(key: Key, images: Array) -> Array:
        variables = net.init(key, images, False)
        features: Any = net.apply(variables, images, False, method=net.features)
        return encoding.joined(outputs(variables, features, False)[0])

    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return int(jax.eval_shape(embed, jax.eval_shape(lambda: numerics.key(0)), image).shape[-1])


def settings(
    own: Any, net: Network, augment: views.Augment, attacked: tuple[bool, ...], mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
    """What the step of a stage is to do with embeddings, as arguments of `make_step`. `attacked`: which views are.
    `mesh`: what the step is compiled for, None for one of jax's own devices.
    """
    encode = encoding.ENCODERS[own.encoding](attacked)
    encode = encode if own.sync_batch_stats else encoding.per_device(encode, mesh)
    encode = encoding.in_chunks(encode, own.accumulate, sharding.platform_of(mesh) if mesh else "")
    if not isinstance(own, Contrastive):
        return {"encode": encode}
    outputs = encoding.outputs(net, spec.items(own.compares))

    def teach(variables: PyTree, images: Array, keys: Key) -> Array:
        features: Any = net.apply(variables, augment(keys, images), False, method=net.features)
        return encoding.joined(outputs(variables, features, False)[0])

    found: dict[str, Any] = {"encode": encode, "compared": outputs}
    if own.teacher:
        found["teacher"] = teach
    if own.key_momentum:
        found["keys_of"] = momentum.keys(net, encode, outputs)
    return found
