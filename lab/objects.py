"""The kinds of things that a scene can hold: things that an emoji draws, and plain shapes that have a color."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing. `noun` and `plural` are single lower-case words; `glyph` is empty for a plain shape."""

    noun: str
    plural: str
    glyph: str = ""


_IRREGULAR = {
    "sheep": "sheep",
    "snowman": "snowmen",
    "mouse": "mice",
    "fish": "fish",
    "octopus": "octopuses",
    "fox": "foxes",
    "butterfly": "butterflies",
    "strawberry": "strawberries",
    "cherry": "cherries",
    "tomato": "tomatoes",
    "bus": "buses",
    "church": "churches",
    "dress": "dresses",
    "cactus": "cactuses",
}

_GLYPHS = """
dog 🐕 cat 🐈 horse 🐎 cow 🐄 pig 🐖 sheep 🐑 elephant 🐘 lion 🦁 tiger 🐅 bear 🐻 panda 🐼 fox 🦊
rabbit 🐇 mouse 🐁 monkey 🐒 frog 🐸 turtle 🐢 snake 🐍 crocodile 🐊 whale 🐳 dolphin 🐬 fish 🐠
octopus 🐙 crab 🦀 bee 🐝 butterfly 🦋 snail 🐌 owl 🦉 duck 🦆 chicken 🐔 penguin 🐧 parrot 🦜 camel 🐫
giraffe 🦒 zebra 🦓 flamingo 🦩 hedgehog 🦔 ladybug 🐞 spider 🕷
apple 🍎 banana 🍌 lemon 🍋 strawberry 🍓 watermelon 🍉 pineapple 🍍 cherry 🍒 pear 🍐
carrot 🥕 tomato 🍅 broccoli 🥦 mushroom 🍄 pizza 🍕 hamburger 🍔 cake 🎂 cookie 🍪
donut 🍩 avocado 🥑 pumpkin 🎃 pretzel 🥨 lollipop 🍭
tree 🌳 cactus 🌵 sunflower 🌻 rose 🌹 tulip 🌷
car 🚗 bus 🚌 truck 🚚 tractor 🚜 bicycle 🚲 motorcycle 🏍 train 🚂 airplane ✈ rocket 🚀 helicopter 🚁
boat ⛵ house 🏠 castle 🏰 tent ⛺ church ⛪
football ⚽ basketball 🏀 guitar 🎸 trumpet 🎺 violin 🎻 drum 🥁 piano 🎹 camera 📷 phone 📱 laptop 💻
television 📺 book 📕 key 🔑 clock ⏰ umbrella ☂ hat 🎩 shoe 👟 shirt 👕 dress 👗 backpack 🎒 crown 👑
ring 💍 chair 🪑 door 🚪 bell 🔔 gift 🎁 balloon 🎈 candle 🕯 hammer 🔨 anchor ⚓ robot 🤖 ghost 👻
snowman ⛄ star ⭐ globe 🌍 magnet 🧲 trophy 🏆 lock 🔒 heart ❤ diamond 💎
"""


def _kinds() -> tuple[Kind, ...]:
    words = _GLYPHS.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return tuple(Kind(noun, _IRREGULAR.get(noun, noun + "s"), glyph) for noun, glyph in pairs)


COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 215, 50),
    "green": (40, 160, 70),
    "blue": (40, 90, 215),
    "purple": (130, 60, 170),
    "pink": (245, 130, 180),
    "brown": (125, 80, 45),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
"""The colors of plain shapes, RGB."""

_UNKNOWN_GLYPHS = """
😀 😁 😂 😃 😄 😅 😆 😇 😉 😊 😋 😌 😍 😎 😏 😐 😑 😒 😓 😔 😖 😘 😚 😜 😝 😞 😠 😡 😢 😣
😤 😥 😨 😩 😪 😫 😭 😰 😱 😲 😳 😵 😷 👀 👂 👃 👄 👅 👆 👇 👈 👉 👊 👋 👌 👍 👎 👏 👐 👦
👧 👨 👩 👮 👰 👱 👳 👴 👵 👶 👷 💂 💅 💆 💇 💪 🙅 🙆 🙇 🙋 🙌 🙏 ♈ ♉ ♊ ♋ ♌ ♍
♎ ♏ ♐ ♑ ♒ ♓ ♠ ♣ ♿ ⚡ ☁ ☕ 🌀 🌁 🌈 🌊 🌋 🌌 🍀 🍃 🍛 🍜 🍝 🍞 🍟 🍡 🍢 🍣 🍤 🍦
🍱 🍲 🍳 🍴 🍵 🍶 🍷 🍸 🍺 🍻 🎀 🎌 🎍 🎎 🎏 🎐 🎑 🎡 🎢 🎤 🎧 🎨 🎫 🎬 🎭 🎮 🎯 🎰 🎱 🎲
🎳 🎿 🏁 🏂 🏃 🏄 🏊 💈 💉 💊 💋 💡 💢 💣 💤 💥 💦 💧 💨 💩 💰 💱 💳 💸 💹 💼 💽 📅
📈 📉 📊 📌 📍 📎 📏 📡 📢 📦 📧 📫 📻 📼 🔃 🔅 🔆 🔋 🔌 🔎 🔖 🔗 🔞 🔥 🔦 🔧 🔩 🔪
🔫 🔬 🔭 🔮 🔱 🗻 🗼 🗽 🗿 🚥 🚦 🚧 🚩 🚬 🚭 🚰 🚹 🚺 🚼 🚽 🚿 🛀 🛁 🛂
"""


DRAWN: tuple[Kind, ...] = _kinds()
"""Things that an emoji draws."""
SHAPES: tuple[Kind, ...] = tuple(
    Kind(noun, noun + ("es" if noun == "cross" else "s"))
    for noun in ("circle", "square", "triangle", "hexagon", "cross")
)
"""Plain shapes, each in one of `COLORS`."""
KINDS: tuple[Kind, ...] = (*DRAWN, *SHAPES)
UNKNOWN: tuple[str, ...] = tuple(_UNKNOWN_GLYPHS.split())
"""Glyphs of things that have no word here: what a model must not name."""
BY_WORD: dict[str, Kind] = {word: kind for kind in KINDS for word in (kind.noun, kind.plural)}


def nouns_in(text: str) -> set[str]:
    """The kinds, by singular noun, that `text` names in singular or plural."""
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    return {BY_WORD[word].noun for word in words if word in BY_WORD}
