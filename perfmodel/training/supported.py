"""Which models a training step is modelled for: attention over all keys or a window, dense FFNs and experts."""

from perfmodel.errors import UnsupportedError
from perfmodel.spec.mixers import Gqa, Mla
from perfmodel.spec.model import Layer, Model


def attention_of(layer: Layer) -> Mla | Gqa:
    """The layer's attention.

    Raises:
        UnsupportedError: it has another mixer, or selects its keys.
    """
    mixer = layer.attention
    kind: str = "no attention" if mixer is None else mixer.kind
    if isinstance(mixer, (Mla, Gqa)):
        convolved = layer.output_convs or (isinstance(mixer, Gqa) and (mixer.kv_conv or mixer.relative))
        if mixer.indexer is None and not convolved:
            return mixer
        kind = "an index branch" if mixer.indexer else "convolutions or a bias by distance"
    raise UnsupportedError(
        f"training: the model has layers with {kind}; modelled are backwards of MLA and GQA, of which there are timings"
    )


def check_model(model: Model) -> None:
    """Refuse a model whose backward is not modelled.

    Raises:
        UnsupportedError: as said, with the part.
    """
    if model.unmodelled:
        raise UnsupportedError(f"model {model.name}: {model.unmodelled} is not modelled in time")
    if model.hyper_connections:
        raise UnsupportedError(f"model {model.name}: several residual streams are not modelled in training")
    for layer in (*model.layers, *((model.mtp.layer,) if model.mtp else ())):
        attention_of(layer)
        if not (layer.moe or layer.dense_ffn_size):
            raise UnsupportedError(
                f"model {model.name}: layers of attention alone are not modelled in training"
            )
