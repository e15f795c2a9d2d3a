"""COCO's 80 object categories and further names for them.

The categories are those of https://cocodataset.org (Lin et al. 2014, https://arxiv.org/abs/1405.0312); the further
names are our own choice. An empty category marks phrases that name no object although a word of theirs does.
"""

from __future__ import annotations


def _plural(name: str) -> str:
    irregular = {
        "person": "people",
        "man": "men",
        "woman": "women",
        "child": "children",
        "mouse": "mice",
        "goose": "geese",
    }
    first, _, last = name.rpartition(" ")
    if last in irregular:
        last = irregular[last]
    elif last in ("sheep", "skis", "scissors", "broccoli", "cattle", "people"):
        pass
    elif last.endswith(("s", "sh", "ch", "x")):
        last += "es"
    elif last in ("knife", "calf"):
        last = last.removesuffix("fe").removesuffix("f") + "ves"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{first} {last}".strip()


_NAMES = {
    "person": "man woman boy girl child kid baby lady guy player skier surfer rider pedestrian crowd skateboarder",
    "bicycle": "bike", "car": "sedan taxi cab van suv", "motorcycle": "motorbike scooter moped",
    "airplane": "plane jet aircraft airliner", "bus": "", "train": "locomotive tram", "truck": "lorry pickup",
    "boat": "ship canoe kayak sailboat ferry", "traffic light": "stoplight", "fire hydrant": "hydrant",
    "stop sign": "", "parking meter": "", "bench": "", "bird": "duck pigeon seagull goose parrot owl",
    "cat": "kitten kitty", "dog": "puppy pup", "horse": "pony foal", "sheep": "lamb", "cow": "cattle calf bull",
    "elephant": "", "bear": "", "zebra": "", "giraffe": "", "backpack": "rucksack", "umbrella": "parasol",
    "handbag": "purse", "tie": "necktie", "suitcase": "luggage", "frisbee": "", "skis": "", "snowboard": "",
    "sports ball": "baseball football basketball", "kite": "", "baseball bat": "", "baseball glove": "",
    "skateboard": "", "surfboard": "", "tennis racket": "racquet racket", "bottle": "", "wine glass": "", "cup": "mug",
    "fork": "", "knife": "", "spoon": "", "bowl": "", "banana": "", "apple": "", "sandwich": "burger hamburger",
    "orange": "", "broccoli": "", "carrot": "", "hot dog": "hotdog", "pizza": "", "donut": "doughnut",
    "cake": "cupcake", "chair": "stool armchair", "couch": "sofa", "potted plant": "houseplant", "bed": "",
    "dining table": "table desk", "toilet": "", "tv": "television", "laptop": "", "mouse": "", "remote": "",
    "keyboard": "", "cell phone": "phone smartphone cellphone", "microwave": "", "oven": "stove", "toaster": "",
    "sink": "", "refrigerator": "fridge", "book": "", "clock": "", "vase": "", "scissors": "",
    "teddy bear": "", "hair drier": "", "toothbrush": "",
}  # fmt: skip
_NO_OBJECTS = (
    "baseball field",
    "baseball game",
    "orange juice",
    "train station",
    "train track",
    "bus stop",
    "car park",
)


def _names(name: str) -> tuple[str, ...]:
    more = _NAMES[name].split()
    return tuple(dict.fromkeys((_plural(name), *more, *map(_plural, more))))


CATEGORIES: dict[str, tuple[str, ...]] = {
    **{name: _names(name) for name in _NAMES},
    "": (*_NO_OBJECTS, *map(_plural, _NO_OBJECTS)),
}
"""Category → its further names, plurals among them."""
