"""Text written by a seeded program: tales with sentences that depend on earlier ones.

A tale moves a few people and things between places, gives out secret numbers, and asks about both
at random distances. So the next token depends on what the KV cache holds. No text is copied from
elsewhere.
"""

from random import Random

NAMES = (
    "anna",
    "boris",
    "clara",
    "dario",
    "elsa",
    "fritz",
    "greta",
    "henry",
    "irene",
    "jonas",
    "klara",
    "leon",
)
THINGS = ("lamp", "key", "map", "ring", "book", "rope", "bell", "coin", "drum", "kite")
PLACES = ("mill", "harbour", "tower", "market", "garden", "cellar", "bridge", "forest", "chapel", "station")
LOCKS = ("gate", "chest", "vault", "door", "safe", "locker")
GOES = ("walks to", "runs to", "goes to", "returns to", "hurries to")
SKY = (
    "it rains.",
    "the wind is cold.",
    "night falls.",
    "the sun comes out.",
    "somebody sings.",
    "a dog barks.",
)


class _Tale:
    """The places of people and things, and the secret numbers; each method writes one sentence."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.place = {name: rng.choice(PLACES) for name in rng.sample(NAMES, 3)}
        self.lies = {thing: rng.choice(PLACES) for thing in rng.sample(THINGS, 3)}
        self.number: dict[str, str] = {}

    def opening(self) -> str:
        """The places of all people and things."""
        people = [f"{name} is at the {place}." for name, place in self.place.items()]
        return " ".join(people + [f"the {thing} lies in the {place}." for thing, place in self.lies.items()])

    def moves(self) -> str:
        name, place = self.rng.choice(list(self.place)), self.rng.choice(PLACES)
        self.place[name] = place
        return f"{name} {self.rng.choice(GOES)} the {place}."

    def takes(self) -> str:
        name, thing = self.rng.choice(list(self.place)), self.rng.choice(list(self.lies))
        self.lies[thing] = name
        return f"{name} takes the {thing}."

    def secret(self) -> str:
        lock = self.rng.choice(LOCKS)
        self.number[lock] = f"{self.rng.randrange(10_000):04d}"
        return f"the number of the {lock} is {self.number[lock]}."

    def weather(self) -> str:
        return self.rng.choice(SKY)

    def sums(self) -> str:
        a, b = self.rng.randrange(1, 10), self.rng.randrange(1, 10)
        return f"{a} and {b} make {a + b}."

    def asks_number(self) -> str:
        if not self.number:
            return self.secret()
        lock = self.rng.choice(list(self.number))
        return f"what is the number of the {lock}? it is {self.number[lock]}."

    def asks_person(self) -> str:
        name = self.rng.choice(list(self.place))
        return f"where is {name}? at the {self.place[name]}."

    def asks_thing(self) -> str:
        thing = self.rng.choice(list(self.lies))
        where = self.lies[thing]
        return f"where is the {thing}? " + (f"{where} has it." if where in self.place else f"in the {where}.")


SENTENCES = (_Tale.moves, _Tale.takes, _Tale.secret, _Tale.weather, _Tale.sums)
QUESTIONS = (_Tale.asks_number, _Tale.asks_number, _Tale.asks_person, _Tale.asks_thing)


def tale(rng: Random) -> str:
    """One tale of 10 to 30 sentences on a line of its own, about 300 to 1,000 bytes."""
    state = _Tale(rng)
    sentences = [state.opening()]
    for _ in range(rng.randint(10, 30)):
        sentences.append(rng.choice(QUESTIONS if rng.random() < 0.5 else SENTENCES)(state))
    return " ".join(sentences) + "\n"


def text(seed: int, size: int) -> bytes:
    """`size` bytes of tales, the same for the same seed.

    >>> text(7, 60)
    b'fritz is at the mill. clara is at the harbour. greta is at t'
    """
    rng, pieces, written = Random(seed), [], 0
    while written < size:
        pieces.append(tale(rng).encode())
        written += len(pieces[-1])
    return b"".join(pieces)[:size]
