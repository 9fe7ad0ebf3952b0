"""What comes with which extra: ``pip install rscd`` predicts, the rest is asked for by name."""

from rscd.base.errors import ModelError

EXTRA_OF = {
    **dict.fromkeys(
        (
            "jsonargparse",
            "kornia",
            "lightning",
            "matplotlib",
            "safetensors",
            "segmentation_models_pytorch",
            "tensorboard",
            "timm",
            "torch",
            "torchgeo",
            "torchmetrics",
            "torchvision",
        ),
        "train",
    ),
    **dict.fromkeys(("cloudpickle", "dask", "distributed"), "cluster"),
    **dict.fromkeys(("folium", "mapclassify"), "notebooks"),
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    "s3fs": "s3",
}
"""Packages that a plain installation lacks, and the extra that brings each."""


def missing_extra(error: BaseException) -> ModelError | None:
    """The clear line for an import that fails because an extra is not installed.

    Args:
        error: any exception.

    Returns:
        The error to raise in its place; None if it is about something else.
    """
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return None
    return ModelError(
        f"expected the package {package}, found none; it comes with: pip install 'rscd[{extra}]'"
    )
