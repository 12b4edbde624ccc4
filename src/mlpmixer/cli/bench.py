"""`mixer bench`: speed here, against other frameworks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mlpmixer.cli.output import require_writable
from mlpmixer.errors import UsageError, nearest, nearest_path


@dataclass(frozen=True)
class Usual:
    """Defaults of a benchmark. `least`: images in a batch; 0: models have no batch. `folder`: whether it takes one;
    None: it may."""

    models: str = ""
    precision: str = ""
    known: tuple[str, ...] = ()
    rounds: int = 9
    least: int = 1
    folder: bool | None = False
    image: bool = False


USUAL = {
    "infer": Usual(
        "mixer_s32:32,mixer_s32:1,mixer_b16:16,mixer_b16:1", "fp32,bf16,int8", ("fp32", "bf16", "int8"), image=True
    ),
    "train": Usual("mixer_s32:64,mixer_b16:16", "bf16", ("fp32", "bf16"), least=2),
    "data": Usual(folder=True),
    "predict": Usual("mixer_s32:32", "bf16", ("fp32", "bf16"), rounds=5, folder=True),
    "scaling": Usual(
        "mixer_s16,vit_s16,mixer_b16,vit_b16,mixer_l16,vit_l16", "bf16", ("fp32", "bf16"), 3, least=0, image=True
    ),
    "serve": Usual("mixer_clothing", "auto", ("auto", "fp32", "bf16", "int8"), 7, least=0, folder=None),
}


What = Literal["infer", "train", "data", "predict", "scaling", "serve"]


def bench(
    what: Annotated[
        Literal["infer", "train", "data", "predict", "scaling", "serve"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="WHAT"),
    ] = "infer",
    folder: Annotated[Path | None, tyro.conf.Positional] = None,
    /,
    models: str = "",
    precision: str = "",
    baselines: str = "timm,openvino,onnx,flax",
    rounds: int = 0,
    images: int = 1000,
    quick: bool = False,
    device: str = "auto",
    image: Path | None = None,
    seconds: int = 2,
    overload: int = 0,
    soak: float = 0,
    leak: bool = False,
    attacks: bool = False,
    litserve: str = "",
    json: bool = False,
) -> None:
    """Measure speed against other frameworks.

    All are interleaved in one run. infer: inference by our engines, against timm's model, OpenVINO, ONNX Runtime and
    Flax, and in % of the machine's peak (roofline). train: training steps, against timm's. data FOLDER: reading and
    augmenting images, against timm's loader. predict FOLDER: image files into labels, against timm's loader and model.
    scaling: speed by the number of patches and by the batch size, of Mixers and others. serve [FOLDER]: `mixer serve`
    against the bare Predictor and LitServe, under load by wrk, and what an idle service costs; or, where one of
    --overload, --soak and --attacks is given, that. Exit code 1 where it misses a bar.

    Args:
        what: infer, train, data, predict, scaling or serve.
        folder: A data set of image files (data), or any folder of them (predict, serve).
        models: Names and batch sizes, such as mixer_s32:32,mixer_s32:1; one for predict; names only for scaling; what
            `mixer serve` takes for serve; nothing for the usual ones.
        precision: Numeric precision: fp32, bf16 and int8 (infer), or one of fp32 and bf16; nothing for the usual.
        baselines: Frameworks to compare with (infer).
        rounds: Timing rounds after warm-up; 2 or more, or 0 for the usual number.
        images: Files at most (predict, serve).
        quick: Without torch.compile, which begins with a minute for each model.
        device: cpu, cuda, or auto (infer, train, scaling).
        image: Draw the figures here, an .svg file (infer, scaling); infer draws all systems into NAME-panels.svg, too.
        seconds: Of each measurement in a round (serve).
        overload: Seconds for which ten times the clients of full capacity ask; 60 for the bars (serve).
        soak: Minutes of mixed load after which memory must not have grown; 30 for the bars (serve).
        leak: Soak a service that leaks, which must be caught (serve).
        attacks: Tiny images, tiny chunks and slow connections (serve).
        litserve: A Python that has LitServe and torch, if ours has not (serve).
        json: Print JSON.
    """
    usual = USUAL[what]
    named = (models or usual.models).split(",")
    pairs = [_pair(text, usual) for text in named] if usual.least and usual.models else []
    precisions = (precision or usual.precision).split(",")
    for name in precisions if usual.known else ():
        if name not in usual.known:
            known = ", ".join(usual.known)
            raise UsageError(f"--precision: {what} knows {known}, not '{name}'{nearest(name, usual.known)}")
    if len(precisions) > 1 and what != "infer":
        raise UsageError(f"{what} measures one precision at a time: --precision bf16")
    if len(pairs) > 1 and what == "predict":
        raise UsageError(f"predict measures one model at a time: --models {usual.models}")
    only_serve = {"overload": overload, "soak": soak, "leak": leak, "attacks": attacks, "litserve": litserve}
    for name, given in only_serve.items():
        if given and what != "serve":
            raise UsageError(f"--{name} is of mixer bench serve")
    if len(named) > 1 and what == "serve":
        raise UsageError("serve measures one model at a time: --models mixer_clothing")
    if leak and not soak:
        raise UsageError("--leak is caught by a soak: --soak 1")
    if seconds < 1 or overload < 0 or soak < 0:
        raise UsageError("--seconds must be 1 or more, and --overload and --soak 0 or more")
    capacity = not (overload or soak or attacks) or rounds  # or other parts alone
    rounds = rounds or usual.rounds
    if rounds < 2:
        raise UsageError(f"--rounds must be 2 or more, since results have a spread; got {rounds}")
    if images < 1:
        raise UsageError(f"--images must be 1 or more; got {images}")
    if usual.folder is not None and (folder is None) == usual.folder:
        raise UsageError(f"mixer bench {what} takes {'a FOLDER of images' if usual.folder else 'no folder'}")
    if folder is not None and not folder.exists():
        raise UsageError(f"{folder} is no folder of image files{nearest_path(str(folder))}")
    if image is not None:
        _check(image, what)

    from mlpmixer.cli import measurements

    if what == "infer":
        others = [name for name in baselines.split(",") if name]
        measurements.infer(pairs, precisions, others, rounds, quick, device, image, json)
    elif what == "train":
        measurements.train(pairs, precisions[0], rounds, quick, device, json)
    elif what == "scaling":
        measurements.scaling(named, precisions[0], rounds, device, image, json)
    elif what == "data":
        assert folder is not None
        measurements.data(folder, rounds, json)
    elif what == "serve":
        from mlpmixer.bench.serving.run import Parts

        parts = Parts(rounds if capacity else 0, seconds, overload, soak, leak, attacks)
        measurements.serve(folder, named[0], precisions[0], images, parts, litserve, json)
    else:
        assert folder is not None
        measurements.predict(folder, pairs[0], precisions[0], images, rounds, quick, json)


def _pair(text: str, usual: Usual) -> tuple[str, int]:
    name, _, batch = text.partition(":")
    if not batch.isdigit() or int(batch) < usual.least:
        least = f" (a batch is {usual.least} or more)" if usual.least > 1 else ""
        raise UsageError(f"--models looks like {usual.models}{least}; got '{text}'")
    return name, int(batch)


def _check(image: Path, what: str) -> None:
    if not USUAL[what].image:
        raise UsageError(f"mixer bench {what} draws no image")
    require_writable(image)
