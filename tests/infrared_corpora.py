"""Small corpora of labelled infrared pictures, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

VOC = (
    "<annotation><size><width>40</width><height>32</height></size><object><name>person</name><bndbox><xmin>2</xmin>"
    "<ymin>2</ymin><xmax>9</xmax><ymax>20</ymax></bndbox></object></annotation>"
)


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 40), dtype=np.uint8)).save(path)


def coco(path: Path, images: list[dict], boxes: list[tuple[int, int, list[float], int]], names: list[str]) -> str:
    content = {
        "images": [{"width": 40, "height": 32} | image for image in images],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "bbox": box, "iscrowd": crowd}
            for n, (image, label, box, crowd) in enumerate(boxes)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def kaist(root: Path, labelled: dict[str, bytes], bare: tuple[str, ...] = ()) -> Path:
    for name in (*labelled, *bare):
        video, stem = name.rsplit("/", 1)
        for side in ("visible", "lwir"):
            picture(root / "images" / video / side / f"{stem}.png")
    for name, text in labelled.items():
        (root / "annotations" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"{name}.txt").write_bytes(text)
    return root


def alone(root: Path, layout: str) -> None:
    """Three labelled infrared pictures to learn from and three to judge on; one of each has an RGB partner."""
    for part in ("train", "test"):
        names = [f"{part}{n}" for n in range(3)]
        rgb, infrared = {
            "flir 2018": (f"{part}/RGB", f"{part}/thermal_8_bit"),
            "flir 2022": (f"images_rgb_{part}/data", f"images_thermal_{part}/data"),
            "llvip": (f"visible/{part}", f"infrared/{part}"),
            "kaist": (
                f"images/set0{6 * (part == 'test')}/V000/visible",
                f"images/set0{6 * (part == 'test')}/V000/lwir",
            ),
        }[layout]
        (root / rgb).mkdir(parents=True)
        Image.new("RGB", (40, 32), "olive").save(root / rgb / f"{names[0]}.jpg")
        for name in names:
            picture(root / infrared / f"{name}.jpg")
            if layout == "llvip":
                (root / "Annotations").mkdir(exist_ok=True)
                (root / "Annotations" / f"{name}.xml").write_text(VOC)
            elif layout == "kaist":
                text = root / "annotations" / infrared.removeprefix("images/").removesuffix("/lwir") / f"{name}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text("person 2 2 7 18\n")
        if layout.startswith("flir"):
            place = f"{part}/thermal_annotations.json" if layout == "flir 2018" else f"images_thermal_{part}/coco.json"
            images = [{"id": n, "file_name": f"data/{name}.jpg"} for n, name in enumerate(names)]
            coco(root / place, images, [(n, 0, [2, 2, 7, 18], 0) for n in range(3)], ["person"])
