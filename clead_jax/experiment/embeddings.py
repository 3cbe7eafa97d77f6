"""What a stage does with embeddings: which it compares, with which teacher, and how attacks move them."""

from typing import Any

from clead_jax import config
from clead_jax.attacks.objectives import OF_EMBEDDINGS
from clead_jax.config import Config, Contrastive
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array, Key, NamedAttack, PyTree
from clead_jax.losses.contrastive import SIMILARITIES
from clead_jax.models import Network
from clead_jax.training import encoding, views


def check(cfg: Config, name: str, attacks: list[NamedAttack], unattacked: int) -> None:
    """Raises ValueError for a stage whose attacks, teacher or compared outputs do not fit together.

    `attacks` are its attacked views, `unattacked` is the number of the others.
    """
    own, words = cfg[name], config.distances(cfg[name].ascend)
    for attack in attacks:
        if bool(words) != (attack.objective in OF_EMBEDDINGS):
            known = ", ".join(objective.__name__ for objective in OF_EMBEDDINGS)
            which = f"takes an objective of embeddings ({known})" if words else "takes an objective of logits"
            raise ValueError(f"{name}: {attack.name!r} cannot be maximised, for {name}.ascend={own.ascend} {which}")
    if own.ascend == "partner" and unattacked < 2:
        raise ValueError(f"{name}.ascend is 'partner': two views must not be attacked, as in clean,augmented,pgd")
    if not isinstance(own, Contrastive):
        if words or own.ascend == "partner":
            raise ValueError(f"{name}.ascend is {own.ascend!r}; a stage of kind {own.kind} compares no embeddings")
        return
    compares = spec.items(own.compares)
    if not compares or not set(compares) <= {*encoding.PARTS}:
        raise ValueError(f"{name}.compares is {own.compares!r}; it can be {', '.join(encoding.PARTS)}, or both")
    if words and len(words) != len(compares):
        raise ValueError(f"{name}.ascend is {own.ascend!r}; it needs one word for each of {name}.compares")
    if own.encoding not in encoding.ENCODERS:
        raise ValueError(f"{name}.encoding is {own.encoding!r}; it can be {', '.join(encoding.ENCODERS)}")
    if LOSSES[spec.parse(own.loss)[0]].info.get("of") == "teacher" and not own.teacher:
        raise ValueError(f"{name}.loss is {own.loss!r}, which needs a teacher: {name}.teacher names a stage")


def target(own: Any, net: Network) -> views.Target | None:
    """What attacks on embeddings maximise, None where they maximise something of a classifier."""
    if words := config.distances(own.ascend):
        outputs = encoding.outputs(net, spec.items(own.compares))
        return views.distance(net, outputs, tuple(word == "teacher" for word in words))
    if own.ascend == "partner":
        return views.partner(net, SIMILARITIES[own.similarity], own.temperature)
    return None


def settings(own: Any, net: Network, augment: views.Augment) -> dict[str, Any]:
    """What the step of a stage is to do with embeddings, as arguments of `make_step`."""
    if not isinstance(own, Contrastive):
        return {}
    outputs = encoding.outputs(net, spec.items(own.compares))

    def teach(variables: PyTree, images: Array, keys: Key) -> Array:
        features: Any = net.apply(variables, augment(keys, images), False, method=net.features)
        return encoding.joined(outputs(variables, features))

    of_teacher = {"teacher": teach} if own.teacher else {}
    return {"encode": encoding.ENCODERS[own.encoding], "compared": outputs} | of_teacher
