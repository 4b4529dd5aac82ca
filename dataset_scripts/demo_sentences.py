"""Short everyday English sentences from templates, in two parts that share no sentence: Train and Dev."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

DEV_SHARE = 0.3  # share of all possible sentences

WORDS = {
    "name": [
        "Anna",
        "Peter",
        "Maria",
        "Daniel",
        "Laura",
        "Thomas",
        "Emma",
        "Robert",
        "Julia",
        "Martin",
        "Sarah",
        "Simon",
        "Helen",
        "George",
        "Alice",
        "Oscar",
    ],
    "relative": [
        "mother",
        "father",
        "sister",
        "brother",
        "uncle",
        "aunt",
        "grandmother",
        "cousin",
        "neighbor",
        "doctor",
    ],
    "device": [
        "kitchen light",
        "radio",
        "television",
        "heating",
        "alarm clock",
        "washing machine",
        "fan",
        "oven",
        "reading lamp",
        "coffee machine",
        "computer",
        "printer",
    ],
    "room": ["kitchen", "garage", "garden", "bathroom", "living room", "office", "basement", "bedroom", "hallway"],
    "place": [
        "station",
        "market",
        "library",
        "hospital",
        "airport",
        "bakery",
        "post office",
        "school",
        "museum",
        "river",
        "park",
        "pharmacy",
        "town hall",
        "swimming pool",
        "harbor",
        "bridge",
    ],
    "food": [
        "apple pie",
        "vegetable soup",
        "bread and butter",
        "chicken with rice",
        "a cheese sandwich",
        "fried eggs",
        "chocolate cake",
        "tomato salad",
        "orange juice",
        "hot tea",
        "fresh milk",
        "strawberry jam",
    ],
    "object": [
        "umbrella",
        "red jacket",
        "phone",
        "green notebook",
        "wallet",
        "bicycle",
        "pair of glasses",
        "blue bag",
        "camera",
        "newspaper",
        "toolbox",
        "wooden chair",
        "letter",
        "suitcase",
        "winter coat",
        "front door key",
    ],
    "animal": ["dog", "cat", "horse", "rabbit", "parrot", "goat", "pigeon", "tortoise", "donkey", "squirrel"],
    "weekday": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "month": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    "day": [
        "first",
        "second",
        "third",
        "fifth",
        "seventh",
        "ninth",
        "tenth",
        "twelfth",
        "fourteenth",
        "sixteenth",
        "twentieth",
        "twenty first",
        "twenty eighth",
        "thirtieth",
    ],
    "small": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
    "number": [
        "fifteen",
        "eighteen",
        "twenty",
        "twenty six",
        "thirty one",
        "thirty eight",
        "forty",
        "forty two",
        "fifty five",
        "sixty",
        "sixty seven",
        "seventy three",
        "eighty",
        "eighty nine",
        "ninety four",
    ],
    "hour": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"],
    "weather": ["rain", "snow", "fog", "strong wind", "sunshine", "thunder", "clouds", "frost"],
    "feeling": ["tired", "happy", "hungry", "worried", "proud", "thirsty", "bored", "surprised", "angry", "nervous"],
    "color": ["red", "blue", "green", "yellow", "purple", "white", "black", "brown", "silver", "golden"],
    "job": ["teacher", "plumber", "nurse", "farmer", "pilot", "carpenter", "lawyer", "baker", "painter", "gardener"],
    "song": ["jazz", "piano music", "the news", "a quiet song", "the football match", "an audio book", "folk songs"],
}

TEMPLATES = (
    "Turn on the {device}.",
    "Turn off the {device} in the {room}, please.",
    "Could you switch off the {device}?",
    "Play {song} in the {room}.",
    "Call my {relative} now.",
    "Please call {name} after lunch.",
    "Send a message to {name}.",
    "Tell my {relative} that I am {feeling}.",
    "Set a timer for {number} minutes.",
    "Wake me up at {hour} tomorrow.",
    "Remind me to feed the {animal} on {weekday}.",
    "Where did you put my {object}?",
    "I left my {object} at the {place}.",
    "Have you seen the {object}?",
    "{name} lost a {color} {animal} near the {place}.",
    "How do I get to the {place}?",
    "Is the {place} open on {weekday}?",
    "The bus to the {place} leaves in {small} minutes.",
    "Take the {day} street on the left.",
    "My birthday is on the {day} of {month}.",
    "We are moving in {month}.",
    "The meeting was moved to {weekday} the {day}.",
    "She was born in {month}, near the {place}.",
    "There are {number} steps to the {room}.",
    "He bought {small} tickets for {weekday} evening.",
    "The answer is {number}.",
    "Room {number}, please.",
    "It costs {number} dollars.",
    "I would like {food}, please.",
    "{name} never eats {food} in the morning.",
    "We ran out of {food}.",
    "Can I have {food} for dinner?",
    "The {animal} is sleeping in the {room}.",
    "A {color} {animal} ran across the road.",
    "Look at that {animal}!",
    "Tomorrow there will be {weather} in the north.",
    "I do not like {weather} in {month}.",
    "Why are you so {feeling} today?",
    "I am {feeling}.",
    "{name} felt {feeling} after the long walk.",
    "My {relative} works as a {job}.",
    "The {job} arrived at {hour} and left at noon.",
    "Ask the {job} about the {object}.",
    "They painted the {room} {color}.",
    "Open the window in the {room}.",
    "Who is at the door of the {room}?",
    "{name} and my {relative} went to the {place} by train.",
    "It takes {number} minutes to walk to the {place}.",
    "Thank you for the {object}, {name}.",
    "Good morning, {name}.",
    "Nobody told {name} about the {weather}.",
    "Can you repeat that more slowly?",
    "What time is it in {small} hours?",
    "See you at the {place} on {weekday}.",
    "That {object} belongs to my {relative}.",
    "Please write it down for my {relative}.",
)


def sentences(split: str, random: np.random.Generator, templates: Sequence[str] = TEMPLATES) -> Iterator[str]:
    """Yield different sentences of one split, "Train" or "Dev", without end; a sentence's hash decides its split."""
    seen = set()
    while True:
        template = templates[random.integers(len(templates))]
        sentence = re.sub(r"{(\w+)}", lambda slot: str(random.choice(WORDS[slot[1]])), template)
        if sentence not in seen and split_of(sentence) == split:
            seen.add(sentence)
            yield sentence


def word_sentences(
    split: str, random: np.random.Generator, most_words: int, blanks: Iterable[str] = tuple(WORDS)
) -> Iterator[str]:
    """Like `sentences`, but of at most `most_words` words, without capitals and punctuation.

    Uses only templates whose blanks are all in `blanks`. If no further sentence exists, the iterator never returns.
    """
    for sentence in sentences(
        split, random, [text for text in TEMPLATES if set(re.findall(r"{(\w+)}", text)) <= set(blanks)]
    ):
        words = re.findall(r"\w+", sentence.lower())
        if len(words) <= most_words:
            yield " ".join(words)


def split_of(sentence: str) -> str:
    draw = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") / 2**32
    return "Dev" if draw < DEV_SHARE else "Train"
