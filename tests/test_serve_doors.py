"""The same image gives the same scores by whatever API, command and route, to the last bit: of models of 32 and 224
pixels, and of files as cameras and programs really write them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_processes import run_mixer
from PIL import Image
from serving import Running, running

import mlpmixer
from mlpmixer.data.images import pixels
from mlpmixer.errors import ImageError
from mlpmixer.evaluation.evaluate import evaluate
from mlpmixer.predict.predictor import Prediction, Predictor, Scores
from mlpmixer.weights.bundled import PHOTO


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def odd_files() -> dict[str, bytes]:
    """Of each kind one; those of which nothing can be seen come last."""
    with Image.open(Path(__file__).with_name("photos") / "dress.jpg") as opened:
        image = opened.convert("RGB").resize((150, 200))
    with Image.open(PHOTO) as opened:
        other = opened.convert("RGB").resize((150, 200))
    turned = Image.Exif()
    turned[0x0112] = 6
    gray = np.asarray(image.convert("L")).astype(np.uint16) * 257
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    jpeg = saved(image, "JPEG", quality=90)
    return {
        "turned": saved(image, "JPEG", exif=turned),
        "cmyk": saved(image.convert("CMYK"), "JPEG"),
        "16 bits": saved(Image.fromarray(gray), "PNG"),
        "palette with alpha": saved(clear.quantize(64), "PNG"),
        "alpha": saved(clear, "WEBP", lossless=True),
        "moving": saved(image, "GIF", save_all=True, append_images=[other]),
        "progressive": saved(image, "JPEG", progressive=True, subsampling=0),
        "gray": saved(image.convert("L"), "JPEG"),
        "deep tiff": saved(Image.fromarray(gray), "TIFF", compression="tiff_lzw"),
        "bits": saved(image.convert("1"), "BMP"),
        "narrow": saved(image.resize((3, 200)), "PNG"),
        "truncated": jpeg[: len(jpeg) // 2],
        "none": b"GIF89a",
    }


FILES = odd_files()
GOOD = [*FILES.values()][:-2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name → weights: a Mixer of 32 pixels, one of 224 of random weights, and a convolutional network."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    made = {
        "mixer_224": mlpmixer.create("mixer_s32", num_classes=7, layers=1),
        "vit_224": mlpmixer.create("vit_ti16", num_classes=5, layers=1, image_size=224),
    }
    for name, model in made.items():
        torch.nn.init.normal_(model.get_parameter("head.weight"))
        names = [f"label {number}" for number in range(model.config.num_classes)]
        mlpmixer.save(model, folder / f"{name}.safetensors", classes=names)
    return {"cifar": "mixer_cifar10", **{name: str(folder / f"{name}.safetensors") for name in made}}


@pytest.fixture(scope="module")
def served(sources: dict[str, str]) -> Iterator[Running]:
    with running([f"{name}={source}" for name, source in sources.items()]) as found:
        yield found


def shown(found: Prediction) -> dict[str, Any]:
    rows = [{"label": label, "score": score} for label, score in found.top]
    return {"label": found.label, "score": found.score, "top": rows}


def test_every_route_gives_the_predictors_scores(served: Running, sources: dict[str, str]):
    failures: list[object] = []

    def same(what: object, found: object, wanted: object) -> None:
        if found != wanted:
            failures.append((what, found, wanted))

    for model, source in sources.items():
        predictor = Predictor(source, embeddings=True)
        alone = [predictor.predict_batch([file])[0] for file in FILES.values()]
        wanted = [shown(one) if isinstance(one, Prediction) else None for one in alone]
        assert [one is None for one in wanted] == [False] * len(GOOD) + [True] * 2
        for (name, file), one, expected in zip(FILES.items(), alone, wanted, strict=True):
            for route in ("predict", "embed", "explain")[: 2 + (model == "cifar" or name in ("turned", "truncated"))]:
                answer = served.client.post(f"/v1/{route}", params={"model": model}, content=file)
                if not isinstance(one, Prediction) or expected is None:
                    same((model, name, route), answer.status_code, 422)
                    continue
                [found] = answer.raise_for_status().json()["predictions"]
                if route == "embed":
                    assert one.embedding is not None
                    same((model, name, route), found["embedding"], one.embedding.tolist())
                else:
                    same((model, name, route), {key: found[key] for key in expected}, expected)
        texts = [base64.b64encode(file).decode() for file in FILES.values()]
        many: dict[str, Any] = {"files": [("image", (name, file)) for name, file in FILES.items()]}
        lists: list[dict[str, Any]] = [{**many, "data": {"model": model}}, {"json": {"images": texts, "model": model}}]
        for sent in lists:
            found = served.client.post("/v1/predict", **sent).raise_for_status().json()["predictions"]
            same((model, "list"), [None if "error" in one else one for one in found], wanted)
        # By the Open Inference Protocol: files, pixels, and images that are prepared.
        scores = [one for one in predictor.scores(GOOD) if isinstance(one, Scores)]
        prepared = np.stack([predictor.prepared(file).permute(1, 2, 0).numpy() for file in GOOD])
        tensors = [("image", "BYTES", [len(GOOD)], texts[: len(GOOD)], scores)]
        tensors += [("prepared", "UINT8", [*prepared.shape], prepared.ravel().tolist(), scores)] * (model == "cifar")
        for file, one in zip(GOOD, scores, strict=True):
            array = pixels(file)
            tensors.append(("pixels", "UINT8", [1, *array.shape], array.ravel().tolist(), [one]))
        for name, datatype, shape, data, expected in tensors:
            body = {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
            answer = served.client.post(f"/v2/models/{model}/infer", json=body).raise_for_status()
            found = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            same((model, name), found["scores"], [value for one in expected for value in one.probabilities.tolist()])
            same((model, name), found["embedding"], [value for one in expected for value in one.embedding.tolist()])
        for one, row in zip(scores, wanted, strict=False):  # both are of one computation
            assert row is not None
            same((model, "scores"), float(one.probabilities.max()), row["score"])
    assert not failures, failures[:5]


@pytest.mark.slow
def test_mixer_predict_and_evaluate_see_the_same(sources: dict[str, str], tmp_path: Path):
    """`evaluate` is given each image in the folder of the class that `predict` names: it must find them all right."""
    for name, file in FILES.items():
        (tmp_path / name).write_bytes(file)
    paths = [str(tmp_path / name) for name in FILES]
    for model, source in sources.items():
        predictor = Predictor(source)
        ended = run_mixer("predict", *paths, "--weights", source, "--json")
        lines = [json.loads(line) for line in ended.out.splitlines()]
        expected = [(path, found) for path, found in predictor.stream(paths) if not isinstance(found, ImageError)]
        assert len(expected) == len(GOOD)
        assert lines == [{"path": path, **shown(found)} for path, found in expected]
        data = tmp_path / model
        for path, found in expected:
            (data / found.label).mkdir(parents=True, exist_ok=True)
            (data / found.label / f"{Path(path).name}.jpg").write_bytes(Path(path).read_bytes())
        loaded = mlpmixer.load(source).float()
        card = evaluate(loaded, data, train_images=0, workers=0)
        assert card["top1"].correct == card["top1"].count == len(GOOD)
