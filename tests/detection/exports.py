"""Writers of one COCO data set in the formats of labelling tools, for the tests of their readers.

``write_X(coco, folder, content)``: ``coco`` is a folder as :func:`detector_fixtures.write_coco`
makes it, ``folder`` is written to, and ``content`` maps a split to a COCO dictionary.
"""

import json
import shutil


def halves(content):
    """Split a COCO dictionary: the first five images train, the others validate."""
    parts = {}
    for split, images in (("train", content["images"][:5]), ("valid", content["images"][5:])):
        ids = {image["id"] for image in images}
        annotations = [a for a in content["annotations"] if a["image_id"] in ids]
        parts[split] = {**content, "images": images, "annotations": annotations}
    return parts


def place(coco, image, folder):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(coco / "images" / image["file_name"], folder)


def from_zero(part):
    """Number a COCO dictionary as Roboflow and Label Studio do, with a root category."""
    root = {"id": 0, "name": "things", "supercategory": "none"}
    numbers = {c["id"]: n for n, c in enumerate(part["categories"], 1)}
    images = {image["id"]: n for n, image in enumerate(part["images"])}
    return {
        "images": [{**image, "id": images[image["id"]]} for image in part["images"]],
        "annotations": [
            {
                **a,
                "id": n,
                "image_id": images[a["image_id"]],
                "category_id": numbers[a["category_id"]],
            }
            for n, a in enumerate(part["annotations"])
        ],
        "categories": [root, *({**c, "id": numbers[c["id"]]} for c in part["categories"])],
    }


def write_roboflow_coco(coco, folder, content):
    for split, part in content.items():
        for image in part["images"]:
            place(coco, image, folder / split)
        text = json.dumps(from_zero(part))
        (folder / split / "_annotations.coco.json").write_text(text)


def write_yolo(coco, folder, content, *, nested=True, polygons=True, names=list):
    classes = [c["name"] for part in content.values() for c in part["categories"]]
    classes = list(dict.fromkeys(classes))
    folder.mkdir(parents=True, exist_ok=True)
    text = classes if names is list else dict(enumerate(classes))
    lines = "\n".join(f"  {k}: {v}" for k, v in enumerate(classes))
    (folder / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: {len(classes)}\n"
        + (f"names: {text}\n" if names is list else f"names:\n{lines}\n")
    )
    for split, part in content.items():
        parts = (split, "images") if nested else ("images", split)
        ids = [c["id"] for c in part["categories"]]
        for image in part["images"]:
            place(coco, image, folder.joinpath(*parts))
            width, height = image["width"], image["height"]
            labels = folder.joinpath(*(p.replace("images", "labels") for p in parts))
            labels.mkdir(parents=True, exist_ok=True)
            lines = []
            for a in part["annotations"]:
                if a["image_id"] != image["id"]:
                    continue
                x, y, w, h = a["bbox"]
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
                if polygons:
                    polygon = a["segmentation"][0]
                    values = [v / (height if i % 2 else width) for i, v in enumerate(polygon)]
                label = ids.index(a["category_id"])
                lines.append(" ".join([str(label), *(f"{v:.6f}" for v in values)]))
            name = image["file_name"].replace(".png", ".txt")
            (labels / name).write_text("\n".join(lines) + "\n")


def write_voc(coco, folder, content, *, flat=False, lists=True):
    for split, part in content.items():
        names = {c["id"]: c["name"] for c in part["categories"]}
        images = folder / split if flat else folder / "JPEGImages"
        annotations = folder / split if flat else folder / "Annotations"
        annotations.mkdir(parents=True, exist_ok=True)
        for image in part["images"]:
            place(coco, image, images)
            things = ""
            for a in part["annotations"]:
                if a["image_id"] == image["id"]:
                    x, y, w, h = a["bbox"]
                    corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
                    box = "".join(f"<{k}>{v}</{k}>" for k, v in corners.items())
                    things += (
                        f"<object><name>{names[a['category_id']]}</name>"
                        f"<difficult>{a['iscrowd']}</difficult><bndbox>{box}</bndbox></object>\n"
                    )
            (annotations / image["file_name"].replace(".png", ".xml")).write_text(
                f"<annotation>\n<folder>x</folder><filename>{image['file_name']}</filename>\n"
                f"<size><width>{image['width']}</width><height>{image['height']}</height>"
                f"<depth>3</depth></size>\n{things}</annotation>\n"
            )
        if lists and not flat:
            main = folder / "ImageSets" / "Main"
            main.mkdir(parents=True, exist_ok=True)
            stems = [image["file_name"].removesuffix(".png") for image in part["images"]]
            name = {"valid": "val"}.get(split, split)
            (main / f"{name}.txt").write_text("\n".join(stems) + "\n")
            (main / f"dark_{name}.txt").write_text("".join(f"{stem} -1\n" for stem in stems))


def write_cvat_coco(coco, folder, content, *, subfolders=True, names=("train", "val")):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for name, part in zip(names, content.values(), strict=True):
        for image in part["images"]:
            place(coco, image, folder / "images" / name if subfolders else folder / "images")
        text = json.dumps({"licenses": [], "info": {}, **part})
        (folder / "annotations" / f"instances_{name}.json").write_text(text)


def write_label_studio_coco(coco, folder, content, *, prefix="images/"):
    """One file for all images; unused categories, ids from 0."""
    parts = list(content.values())
    whole = {
        key: [entry for part in parts for entry in part[key]] for key in ("images", "annotations")
    }
    whole = from_zero({**whole, "categories": parts[0]["categories"]})
    for image in whole["images"]:
        place(coco, image, folder / "images")
        image["file_name"] = prefix + image["file_name"]
    (folder / "result.json").write_text(json.dumps(whole))
