"""The emoji that scenes are made of, as English count nouns."""

import re
from dataclasses import dataclass

_TABLE = """
monkey, gorilla, dog, poodle, wolf/wolves, fox, raccoon, cat, lion, tiger, leopard, horse, unicorn,
zebra, deer/deer, ox/oxen, cow, pig, boar, ram, goat, camel, llama, giraffe, elephant, mammoth,
rhino=rhinoceros, hippo=hippopotamus, mouse/mice, rabbit, chipmunk, beaver, hedgehog, bat, bear, koala,
panda, sloth, otter, skunk, kangaroo, badger, turkey, rooster, penguin, eagle, duck, swan, owl,
flamingo, peacock, parrot, frog, crocodile, turtle, lizard, snake, dragon, sauropod, T-Rex, whale,
dolphin, seal, tropical fish/tropical fish, blowfish/blowfish, shark, octopus/octopuses,
jellyfish/jellyfish, crab, lobster, squid/squid, snail, butterfly, ant, honeybee, beetle, cricket,
spider, scorpion, mosquito/mosquitoes, fly, rose, sunflower, tulip, potted plant, evergreen tree,
palm tree, cactus/cacti, shamrock, maple leaf/maple leaves, mushroom, melon, watermelon, tangerine,
lemon, banana, pineapple, mango/mangoes, apple=red apple, pear, peach, strawberry, tomato/tomatoes,
coconut, avocado, eggplant, potato/potatoes, carrot, ear of corn/ears of corn, cucumber, onion,
chestnut, croissant, pretzel, bagel, waffle, hamburger, slice of pizza/slices of pizza=pizza, hot dog,
sandwich, taco, burrito, egg, rice ball, fried shrimp/fried shrimp, fortune cookie, doughnut, cookie,
birthday cake, cupcake, pie, chocolate bar, lollipop, honey pot, baby bottle,
glass of milk/glasses of milk, teapot, wine glass, cocktail glass, beer mug, spoon, jar, amphora,
volcano/volcanoes, mountain=snow-capped mountain, castle, house, hospital, church, mosque, fountain,
tent, ferris wheel, stadium, school, factory, locomotive, bus, ambulance, fire engine, police car, taxi,
tractor, racing car, motorcycle, motor scooter, bicycle, kick scooter, skateboard, roller skate,
traffic light=vertical traffic light, stop sign, anchor, sailboat, canoe, speedboat, airplane,
parachute, helicopter, satellite, rocket, flying saucer, snowflake,
snowman/snowmen=snowman without snow, rainbow, star, cloud, umbrella, comet, tornado/tornadoes,
alarm clock, stopwatch, watch, jack-o-lantern, Christmas tree, balloon, trophy, soccer ball, baseball,
basketball, volleyball, flying disc, boxing glove, ice skate, sled, kite, yo-yo, crystal ball,
magic wand, joystick, slot machine, puzzle piece, teddy bear, piñata, artist palette, necktie, t-shirt,
scarf/scarves, coat, dress, kimono, handbag, backpack, high-heeled shoe, running shoe, hiking boot,
crown, top hat, graduation cap, lipstick, ring, bell, saxophone, trumpet, accordion, guitar, violin,
banjo, drum, microphone, radio, telephone, laptop, printer, floppy disk, battery, television, camera,
candle, light bulb, flashlight, newspaper, scroll, coin, money bag, credit card, envelope, package,
pencil, crayon, paintbrush, briefcase, pushpin, paperclip, key, hammer, axe, dagger, bomb, boomerang,
shield, wrench, screwdriver, gear, magnet, ladder, test tube, microscope, telescope, syringe, pill,
stethoscope, door, mirror, bed, chair, toilet, bathtub, razor, broom, basket, bucket, toothbrush,
fire extinguisher, shopping cart, robot, ghost, alien, skull, brain, tooth/teeth, bone
"""
"""`singular`, `/plural` where the rules do not give it, `=name` where emojibase calls it otherwise.
Clear at a glance and countable."""

_AN_BEFORE_CONSONANT = ("hour",)
_A_BEFORE_VOWEL = ("uni", "eu", "one")


@dataclass(frozen=True)
class Noun:
    """A word for one emoji."""

    name: str
    """Name in emojibase."""
    singular: str
    plural: str

    def counted(self, count: int) -> str:
        """Return `a cat`, `two cats`, ..., `no cats`."""
        if count == 1:
            return f"{article(self.singular)} {self.singular}"
        return f"{NUMBERS[count]} {self.plural}"

    def definite(self, count: int) -> str:
        """Return `the cat` or `the cats`."""
        return f"the {self.singular if count == 1 else self.plural}"


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def article(word: str) -> str:
    """Return the indefinite article that goes before `word`."""
    lower = word.lower()
    if lower.startswith(_AN_BEFORE_CONSONANT):
        return "an"
    if lower.startswith(_A_BEFORE_VOWEL):
        return "a"
    return "an" if lower[0] in "aeiou" else "a"


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def _parse(table: str) -> tuple[Noun, ...]:
    nouns = []
    for entry in filter(None, (part.strip() for part in re.split(r"[,\n]", table))):
        words, _, name = entry.partition("=")
        singular, _, plural = words.partition("/")
        nouns.append(Noun(name or singular, singular, plural or _plural(singular)))
    return tuple(nouns)


NOUNS = _parse(_TABLE)
