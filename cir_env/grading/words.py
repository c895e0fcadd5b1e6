r"""Reads the words around a value: which introduce it, which name its unit, and which change what it says.

`mark` turns words into single tokens. `read` then splits an answer into its value and the unit behind it. It refuses an
answer whose words would have to be ignored: a denial ("is wrong"), a bound ("or more"), a scale ("million").

Every function is pure and total on strings.
"""

import re
from dataclasses import dataclass
from typing import Final

from cir_env.grading.latex import closing_brace
from cir_env.grading.numeric import UNKNOWN, read_unit


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_OPEN, _CLOSE = "\ue000", "\ue001"  # private characters, which `layout` removes from answers
_WORD: Final = rf"{_OPEN}[^{_CLOSE}]*{_CLOSE}"
_LETTERS: Final = re.compile(r"\\[A-Za-z]+|\\.|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SHORT: Final = _vocabulary(
    """
    is are be was we so thus the and or not no nor for all any if but per of to by at as an has had its off yes odd
    am pm cm mm km kg mg ml mL ft in yd mi lb oz hr hrs min mins sec secs mph kph sq cu usd up now men day cup way
    one two six ten plus mod gcd lcm mil bit top non via ago old each dm cl dl nm it's USD EUR Hz ans sol
    """
)
"""Words of two or three letters; other short runs of letters are products of variables."""

_DENIAL: Final = _vocabulary(
    """
    not no nor never none neither isn't aren't wasn't isnt cannot can't wrong incorrect false untrue incorrectly
    mistaken invalid error impossible unless except excluding without if otherwise else or and but maybe perhaps
    possibly either whether instead rather versus vs than least most less more fewer greater larger smaller bigger
    above below under over beyond within beneath minimum maximum up down almost nearly barely short off plus minus
    times multiplied divided mod modulo choose squared cubed factorial factorials reciprocal reciprocals inverse
    negative opposite double doubled twice thrice triple tripled half halved halves third thirds quarter quarters
    percent percents permille hundred thousand dozen dozens score scores gross pair pairs couple couples trio trios
    tens hundreds thousands lakh lakhs crore crores mil myriad myriads fold others other another etc etcetera to
    through between one two three four five six seven eight nine ten eleven twelve zero remainder root roots power
    pi any guess unsure unknown few many several too extra increased decreased added removed first second's last
    contradiction rejected disproved fails failed lie lies unlikely doubtful hardly bogus nonsense excluded ruled
    discarded eliminated reverse basis pct ppm zeros zeroes opposites negatives inverses complements logarithms
    exponentials sines cosines doubles quadruples quintuples bound bounds upwards downwards onwards mistakes errors
    guesses differs exceeds misses divides precedes contradicts sometimes backwards imaginary ones
    """
)
_SCALE: Final = re.compile(
    r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+teen|[a-z]+tie|hundred|thousand|[a-z]*illion)ths?"
    r"|[a-z]*illi(?:on|ard)s?|[a-z]+fold|[a-z]*thousand|[a-z]*hundred|(?:kilo|mega|giga|milli|micro|nano)s?"
)
_LEAD: Final = _vocabulary(
    """
    the a an my our final correct right answer value result solution option choice thus hence so therefore we have
    get obtain find approximately about roughly and that all required desired is are equals be both point points set
    interval domain range solutions roots coordinates vector ordered pair pairs triple function it's that's exactly
    precisely simply just only total of ans sol either remainder sum product it this to problem question for x
    """
)
_LEAD_ENDS: Final = _vocabulary("it's that's at is are equals equal be was gives get obtain becomes namely")
_LEAD_DENIAL: Final = _vocabulary(
    """
    not no nor never none neither wrong incorrect false untrue excluded ruled discarded eliminated rejected except
    unlike cannot can't isn't aren't bound bounds unless instead guess maybe perhaps possibly conjugate mistake
    error trap distractor counterexample someone somebody nobody doubt
    """
)
_BOUNDS: Final = _vocabulary("least most than over under above below to between up half or if times")
"""Words that change a value that follows them directly."""
_AFFIRMATION: Final = re.compile(
    r"(?:is|as) (?:the |my |our |your )?(?:\w+ ){0,2}(?:answer|solution|result|value)|is (?:correct|right)"
    r"|is the (?:maximum|minimum|largest|smallest|greatest|least)(?: possible)?(?: value)?"
    r"|left|remaining|in (?:any|either|some) order|exactly|exact|approximately|approx|about|rounded|only|(?:in )?total"
    r"|altogether|respectively"
)
_MISJUDGED: Final = re.compile("(?:over|under|mis)[a-z]{4,}s?")
_CONTINUATIONS: Final = _vocabulary("per of each old long tall wide high deep apart total in away ago squared")
_IRREGULAR: Final = _vocabulary(
    """
    people men women children feet teeth mice geese fish sheep dice data digits deer oxen vertices matrices
    """
)
_TAIL: Final = re.compile(
    rf"(?: ?[,(\-] ?| )?(?:{_WORD}|°)(?:[ ,().\-]|{_WORD}|°|(?<=[{_CLOSE}°])\ ?\^ ?(?:\{{ ?-?[1-3] ?\}}|[23])"
    rf"|(?<=[{_CLOSE}\d}}]) ?(?:/|\\cdot) ?(?:(?={_WORD})|[a-z](?![A-Za-z])))*$"
)
_SENTENCE: Final = re.compile(  # "the remainder when 100 is divided by 17 is", up to the last verb
    rf"(?:{_OPEN}(?i:the|when|if){_CLOSE})(?:{_WORD}|[A-Za-z](?![A-Za-z])|[A-Z]{{2,4}}|\d{{1,4}}|[ ,.'])*"
    rf"{_OPEN}(?:is|are|equals){_CLOSE} ?:? ?(?=[^ ])(?!{_OPEN})"
)
_ARROW: Final = re.compile(r"^(?:\\(?:to|rightarrow|Rightarrow|colon)(?![A-Za-z])|->|=>) ?")
_FRACTION_OF_UNITS: Final = re.compile(
    rf"\\frac\{{ ?({_WORD}) ?\}}\{{ ?((?:{_WORD}|[a-z])(?: ?\^ ?\{{?[23]\}}?)?) ?\}}$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An answer without the words around its value."""

    value: str
    """The value, in which words are marked."""
    unit: str = ""
    """Its unit as `read_unit` returns it; "?" if it is a noun, "" if there is none."""
    noun: str = ""
    """The words of an unknown unit."""
    refused: str = ""
    """Why the words cannot be ignored; "" if they can."""
    is_named: bool = False
    """Whether words with an equals sign introduce the value."""


def mark(text: str) -> str:
    r"""Mark the words in an answer of normal layout, so that what remains is mathematics.

    >>> show(mark(r"2\text{ and }3")), show(mark("The area is 5 cm")), show(mark(r"AB + \sin x")), show(mark("xyz"))
    ('2 <and> 3', '<The> <area> <is> 5 <cm>', 'AB + \\sin x', 'xyz')
    """
    for _ in range(4):  # text may stand in text
        found = list(re.finditer(r"\\text ?\{", text))
        for match in reversed(found):
            end = closing_brace(text, match.end() - 1)
            if end > 0:
                inner = _LETTERS.sub(lambda word: _token(word[0]), text[match.end() : end].replace("$", ""))
                text = f"{text[: match.start()]} {inner} {text[end + 1 :]}"
        if not found:
            break
    pieces = re.split(f"({_WORD})", text)
    pieces[::2] = [_mark_bare(piece) for piece in pieces[::2]]
    text = re.sub(rf"\\quad ?(?={_OPEN})|(?<={_CLOSE})[: ]*\\quad", " ", "".join(pieces))
    return re.sub(" +", " ", text).strip()


def _mark_bare(text: str) -> str:
    environments = re.split(r"(\\(?:begin|end|mathbb|mathcal|operatorname) ?\{ ?[a-zA-Z]+\*? ?\})", text)
    environments[::2] = [_LETTERS.sub(_token_of_word, part) for part in environments[::2]]
    return "".join(environments)


def _token_of_word(match: re.Match[str]) -> str:
    return _token(match[0]) if _is_word(match[0]) else match[0]


def _token(word: str) -> str:
    is_letter = len(word) == 1 and "A" <= word <= "J"  # of a choice
    return word if word.startswith("\\") or is_letter else f"{_OPEN}{word}{_CLOSE}"


def _is_word(letters: str) -> bool:
    if letters.startswith("\\"):
        return False
    return len(letters) > 3 or not {letters, letters.lower()}.isdisjoint(_SHORT) or not letters.isascii()


def show(text: str) -> str:
    """Show marked words in angle brackets, for examples and messages."""
    return text.replace(_OPEN, "<").replace(_CLOSE, ">")


def unmark(text: str) -> str:
    """Remove the marks."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def has_words(text: str) -> bool:
    """Whether a text has marked words."""
    return _OPEN in text


def tokens(text: str) -> list[str]:
    r"""Split a marked text into its words, in lower case and without articles, and the mathematics between them.

    >>> tokens(mark(r"\text{The team } 5")), tokens(mark("even"))
    (['team', '5'], ['even'])
    """
    found = []
    for part in re.split(f"({_WORD})", text):
        word = unmark(part).lower() if part.startswith(_OPEN) else part.strip(" ,.:;()-")
        if word and word not in ("the", "a", "an", "and"):
            found.append(word)
    return found


def word(name: str) -> str:
    """Return a regular expression of a marked word, in any case."""
    return rf"{_OPEN}(?i:{name}){_CLOSE}"


def read(text: str, known_words: frozenset[str] = frozenset()) -> Reading:
    r"""Split a marked answer into its value and the words around it.

    Args:
        text: The answer.
        known_words: Words of the problem, in lower case, which may also follow a number in the singular.

    >>> read(mark(r"\text{The answer is } 2\sqrt{3}")).value, read(mark("7 apples")).noun, read(mark("5 cm")).unit
    ('2\\sqrt{3}', 'apples', 'centimeter')
    >>> read(mark("7 is wrong")).refused, read(mark("7 million")).refused, read(mark("at least 7")).refused
    ('says "is wrong"', 'says "million"', 'says "at least"')
    """
    value, named, refused = _without_lead(text)
    if refused:
        return Reading(value=value, refused=refused)
    if fraction := _FRACTION_OF_UNITS.search(value):
        value = f"{value[: fraction.start()]} {fraction[1]}/{fraction[2]}"
    match = _TAIL.search(value)
    if match is None or not _is_balanced(value[: match.start()].rstrip(" (")) or not value[: match.start()].strip(" ("):
        return Reading(value=value, is_named=named)
    if match[0].strip().startswith("°") and re.search(r"\\(?!frac|,|\$)[a-z]+", value[: match.start()]):
        return Reading(value=value, is_named=named)  # the angle of a function
    head, tail = value[: match.start()].strip(" ,"), unmark(match[0]).strip(" ,.")
    if tail.startswith("(") != tail.endswith(")") and "(" not in head:
        tail = tail.replace("(s)", "s").strip("( ")
    tail = re.sub(r"\(s\)|\( ?s ?\)", "s", tail).strip("()- .,")
    tail = re.sub(r" *[,.] *", " ", tail)
    if unit := read_unit(tail):
        return Reading(value=head, unit=unit, is_named=named)
    refused = _objection(tail, known_words)
    if refused:
        return Reading(value=value, refused=refused, is_named=named)
    noun = "" if _AFFIRMATION.fullmatch(tail.lower()) else tail
    return Reading(value=head, unit=UNKNOWN if noun else "", noun=noun, is_named=named)


def _without_lead(text: str) -> tuple[str, bool, str]:
    """Return what follows the words that introduce a value, whether an equals sign follows them, and an objection."""
    if sentence := _SENTENCE.match(text):
        words = [unmark(word).lower() for word in re.findall(_WORD, sentence[0])]
        return text[sentence.end() :], False, _lead_objection(words[:-1])
    lead = re.match(
        rf"(?:{_WORD}|[A-Za-z](?= {_OPEN}|:)|(?:\\(?:triangle|angle) ?)?[A-Z]{{2,4}}(?![A-Za-z])|[ ,.'])*", text
    )
    words = [unmark(word).lower() for word in re.findall(_WORD, lead[0])] if lead else []
    if not lead or not words or words[0] in ("all", "every", "real") or not re.match(_WORD, text):
        return text, False, ""
    rest = text[lead.end() :].lstrip()
    if not rest:
        said = [index for index, word in enumerate(words) if word in _LEAD_ENDS and index < len(words) - 1]
        if said and words[0] in _LEAD | _LEAD_ENDS:  # "the answer is even"
            return _after_word(text, said[-1] + 1), False, _lead_objection(words[: said[-1]])
        return text, False, ""
    rest = _ARROW.sub(":", rest)
    sign = rest[0]
    if sign in "+*/^":
        return text, False, ""
    if sign in ":=" or words[-1] in _LEAD_ENDS or all(word in _LEAD for word in words):
        introduction = words[:-1] if sign in ":=" and words[-1] in _BOUNDS else words
        is_named = sign in ":=" and not all(word in _LEAD for word in words)
        return rest.lstrip(":= "), is_named, _lead_objection(introduction)
    if words[-1] in _BOUNDS or _lead_objection(words):
        return text, False, f'says "{" ".join(words)}"'
    return text, False, ""


def _is_balanced(text: str) -> bool:
    return sum(map(text.count, "([{")) == sum(map(text.count, ")]}"))


def _after_word(text: str, count: int) -> str:
    matches = list(re.finditer(_WORD, text))
    return text[matches[count - 1].end() :].strip()


def _lead_objection(words: list[str]) -> str:
    denied = [word for word in words if word in _LEAD_DENIAL]
    if not {"answer", "solution", "result"}.isdisjoint(words):  # "half of the answer is"
        denied += [word for word in words if word not in _LEAD and word not in _LEAD_ENDS]
    if words[-1:] and words[-1] in _BOUNDS:
        denied.append(words[-1])
    return f'says "{" ".join(words)}"' if denied else ""


def _objection(tail: str, known_words: frozenset[str]) -> str:
    """Return why the words behind a value cannot be ignored; "" if they can.

    They can if they say what is counted: a noun in the plural, or one of the problem, with adjectives before it and
    perhaps a measure behind it.
    """
    spelled = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", tail)
    words = [word.lower() for word in spelled]
    is_affirmed = _AFFIRMATION.fullmatch(tail.lower()) and _LEAD_DENIAL.isdisjoint(words)
    if is_affirmed or (len(tail) == 1 and not tail.isascii()) or words in (["am"], ["pm"]):
        return ""
    is_ordered = words[:1] in (["ordered"], ["unordered"])
    denied = [word for word in words if word in _DENIAL or _SCALE.fullmatch(word) or _MISJUDGED.fullmatch(word)]
    if not denied or (is_ordered and denied == ["pairs"]):
        for index, word in enumerate(words[:4]):
            is_noun = _is_plural(word) or word in known_words or f"{word}s" in known_words or read_unit(spelled[index])
            if is_noun and (index + 1 == len(words) or words[index + 1] in _CONTINUATIONS):
                return ""
    return f'says "{tail}"'


def _is_plural(word: str) -> bool:
    return word in _IRREGULAR or (len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")))
