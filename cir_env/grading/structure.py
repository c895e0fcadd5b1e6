r"""Splits an answer into its parts: names and values, the elements of a list, set or tuple, intervals, relations, rows.

Every function is pure and total on strings of normal layout in which words are marked.
"""

import re
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Literal

from cir_env.grading.latex import closing_bracket
from cir_env.grading.words import has_words, word

MAX_ITEMS: Final = 200
"""An answer of more elements is not split."""

_COMMA: Final = re.compile(r"[,;]|\\quad(?![A-Za-z])|\\\\")
_SEPARATOR: Final = re.compile(
    rf" ?(?:(?P<comma>{_COMMA.pattern}) ?(?P<word>{word('or')}|{word('and')})?"
    rf"|(?P<or>{word('or')}|\\(?:lor|vee)(?![A-Za-z]))|(?P<and>{word('and')}|\\(?:land|wedge)(?![A-Za-z]))) ?"
)
_RELATION: Final = re.compile(r" ?(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])) ?")
EQUALS: Final = re.compile(r" ?(?::=|(?<![<>!:])=+|\\equiv(?![A-Za-z])) ?")
_APPROXIMATELY: Final = re.compile(r" ?\\(?:approx|simeq|doteq)(?![A-Za-z]) ?")
_BEGIN_MATRIX: Final = re.compile(
    r"\\begin ?\{ ?(?P<kind>[pbB]?matrix|smallmatrix|(?P<array>array)) ?\}(?(array) ?\{[^{}]*\})"
)
_LINES: Final = r"\{ ?(?:cases|aligned?|gather(?:ed)?|equation|math|displaymath|center|split)\*? ?\}"
_CASES: Final = re.compile(rf"^\\begin ?{_LINES}(.*)\\end ?{_LINES}$")
_GREEK: Final = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    "|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER: Final = rf"(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]))"
_INDEX: Final = r"(?: ?_ ?(?:\{[^{}]*\}|\w|\\[a-z]+))"
_SYMBOL: Final = rf"\{{?{_LETTER}{_INDEX}?'*\}}?"
_NAME: Final = re.compile(
    rf"{_SYMBOL}(?: ?\^ ?\{{?(?:-1|T)\}}?)? ?(?:\([^()=<>]*\))?"
    rf"|\\(?:max|min)|\|[A-Z]{{2}}\||[A-Z]{{2,4}}|\[[A-Z]{{3,5}}\](?:{_INDEX})?"
    r"|(?:m ?)?(?:\\(?:angle|triangle|overline|vec|hat|bar|overrightarrow|widehat|measuredangle)|∠) ?\{?[A-Za-z]+\}?"
    r"|\\frac\{d\^?\{?\d?\}?[a-z]?\}\{d[a-z]\^?\{?\d?\}?\}|\\mathcal ?\{[A-Z]\}"
)
_POINT: Final = re.compile(r"^[A-Z]'* ?(?=\([^()]*,[^()]*\)$)")
_ABOUT: Final = re.compile(
    rf" ?\(? ?(?:{word('or')} ?)?(?:(?:{word('approximately|about|roughly')}) ?(?:\\approx)?|\\approx) ?([\d.,]+) ?\)?$"
)
_TUPLE_OF_NAMES: Final = re.compile(rf"\( ?{_SYMBOL}(?: ?, ?{_SYMBOL})+ ?\)")
_MEMBER: Final = re.compile(rf"^({_SYMBOL}) ?(?:\\in(?![A-Za-z])) ?")
_SUCH_THAT: Final = re.compile(
    rf"^\\\{{ ?({_SYMBOL}) ?(?:\\in ?\\mathbb\{{R\}} ?)?(?:\\mid(?![A-Za-z])|\\?\||:) ?(.*)\\\}}$"
)
_REALS: Final = re.compile(
    rf"(?:{word('the')} )?(?:{word('set')} {word('of')} )?(?:{word('all|any|every')} )?(?:{word('the')} )?"
    rf"(?:\\mathbb\{{R\}}|{word('reals?')}(?: {word('numbers?|values?')})*)(?: {_SYMBOL})?"
    rf"|{word('all')} {word('numbers')}"
)
_SUCH: Final = word("such|that|with|where|for|which|satisfying")
_PREFIX: Final = re.compile(  # "all real numbers x such that"
    rf"^(?:{word('the|set|of|all|any|every|reals?|numbers?|values?')} )+(?:{_SYMBOL} (?={_SUCH}))?(?:{_SUCH} )*"
    r"(?=.*(?:[<>]|\\le|\\ge|\\ne))"
)
_WITHOUT: Final = re.compile(
    rf" ?(?:\\setminus|\\backslash|-(?= ?\\?\{{| ?\()|,? ?{word('except')}(?: {word('for')})?|{word('without')}) ?"
)
_OUTSIDE: Final = re.compile(rf"^({_SYMBOL}) ?\\(?:notin|not ?\\in) ?")
_INFINITY: Final = re.compile(r"\+? ?(?P<minus>-)? ?\+? ?\\(?:infty|infin)(?![A-Za-z]) ?")
_KIND_OF_NUMBER: Final = word("integers?|real|positive|natural|numbers?|an|any|is|are")
_QUALIFIER: Final = re.compile(
    rf" ?,? ?(?:\(? ?(?:{word('for|where|with')}) ?(?:{word('all|any|some|every|each')} ?)?(?:{_KIND_OF_NUMBER} ?)*"
    rf"(?:[A-Za-z](?: ?, ?[A-Za-z])*)?(?: ?\\in ?\\mathbb ?\{{[A-Z]\}}(?:\^\+)?)?(?: ?{_KIND_OF_NUMBER})* ?\)?)$"
)
_FOR_ALL: Final = re.compile(r"^\\forall [^,]*, ?")
ELLIPSIS: Final = re.compile(r"\\ldots(?![A-Za-z])")
_SIGNS: Final = re.compile(r"\\(pm|mp)(?![A-Za-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """One or several values."""

    kind: Literal["single", "list", "set", "tuple"]
    items: tuple[str, ...]
    """The values as they were written."""
    names: tuple[str, ...] = ()
    """The names of the values, in the same order; () if they have none."""
    brackets: str = ""
    """Both brackets of a tuple."""
    sides: tuple[str, ...] = ()
    """Other sides of the equation that states a single value."""
    rounded: str = ""
    """What a single value is said to be approximately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One interval, with its ends as written."""

    brackets: str
    """Both brackets, such as ``[)``."""
    left: str
    """The left end; "-∞" for minus infinity."""
    right: str
    """The right end; "∞" for infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A set of real numbers: the union of the alternatives, each the intersection of its conditions."""

    alternatives: tuple["Conditions", ...]
    """Alternatives of conditions of disjoint intervals, in ascending order."""
    name: str = ""
    """The variable, if any."""
    is_listed: bool = False
    """Whether only commas join the conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """An equation or inequality that is not solved."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


Matrix = tuple[tuple[str, ...], ...]


def split(text: str, separator: re.Pattern[str] = _SEPARATOR, *, most: int | None = MAX_ITEMS) -> list[str] | None:
    r"""Split a text at separators outside brackets, braces and environments; None if the brackets are not balanced.

    None, too, if there are more parts than `most`.

    >>> split(r"(1,2), \{3, 4\}; 5"), split("(1")
    (['(1,2)', '\\{3, 4\\}', '5'], None)
    """
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        character = text[index]
        if depth == 0 and (match := separator.match(text, index)) and match.end() > index:
            parts.append(text[start:index].strip())
            start = index = match.end()
            continue
        if text.startswith((r"\begin", r"\end"), index):
            depth += 1 if text.startswith(r"\begin", index) else -1
        if character == "\\" and text[index + 1 : index + 2] not in "{}":
            index += 1
        else:
            depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        index += 1
    parts.append(text[start:].strip())
    return None if depth or (most is not None and len(parts) > most) else parts


def unwrap(text: str) -> str:
    r"""Remove brackets and braces around one value.

    >>> unwrap("((x+1))"), unwrap("(1,2)"), unwrap("(a)(b)")
    ('x+1', '(1,2)', '(a)(b)')
    """
    while (
        text[:1] in ("(", "{")
        and closing_bracket(text, 0) == len(text) - 1
        and split(text[1:-1], _COMMA) == [text[1:-1].strip()]
    ):
        text = text[1:-1].strip()
    return text


def is_name(text: str) -> bool:
    r"""Whether a text names a value.

    >>> [is_name(text) for text in ("x", "x_1", "f(x)", r"\angle ABC", "|AB|", "2x", "x+1", "")]
    [True, True, True, True, True, False, False, False]
    """
    return _NAME.fullmatch(text.strip()) is not None or (
        has_words(text) and re.fullmatch(rf"(?:{word('[^ ]*')} ?)+", text) is not None
    )


def _names_values(text: str) -> bool:
    return is_name(text) or _TUPLE_OF_NAMES.fullmatch(text) is not None


def letters(text: str) -> frozenset[str]:
    r"""Return the variables of an expression; e, i and π are none.

    >>> sorted(letters(r"2ab + \sin \theta + e^{i\pi}"))
    ['\\theta', 'a', 'b']
    """
    text = re.sub(r"\\(?:begin|end|mathbb) ?\{[a-zA-Z]*\}", "", text)
    commands = {command for command in re.findall(r"\\[A-Za-z]+", text) if re.fullmatch(_GREEK, command[1:])}
    return frozenset(re.findall("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text))) - {"e", "i"} | commands


def without_qualifier(text: str) -> str:
    r"""Remove what only says which values a parameter takes, such as ``\text{for } k \in \mathbb{Z}``."""
    return _FOR_ALL.sub("", _QUALIFIER.sub("", text))


def both_signs(text: str) -> list[str]:
    r"""Expand every ``\pm`` of a value, alternately with ``\mp``.

    >>> both_signs(r"1 \pm \sqrt{2}"), both_signs(r"\pm 1 \pm 2")
    (['1 + \\sqrt{2}', '1 - \\sqrt{2}'], ['1 + 2', '1 - 2', '-1 + 2', '-1 - 2'])
    """
    signs = _SIGNS.findall(text)
    if not signs or len(signs) > 3:
        return [text]
    choices = [["+", "-"] if sign == "pm" else ["-", "+"] for sign in signs]
    combinations = zip(*choices, strict=True) if "mp" in signs else product(*choices)
    values = []
    for combination in combinations:
        remaining = iter(combination)
        value = _SIGNS.sub(lambda _: next(remaining), text).strip()  # noqa: B023
        values.append(re.sub(r"^\+ ?|(?<=[({=]) ?\+ ?", "", re.sub(r"^- ", "-", value)))
    return values


def read_matrix(text: str) -> Matrix | None:
    r"""Parse the cells of a matrix, row by row.

    >>> read_matrix(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"), read_matrix("(1,2)")
    ((('1', '2'), ('3', '4')), None)
    """
    inner = text
    while inner[:1] in ("(", "[") and closing_bracket(inner, 0) == len(inner) - 1:
        inner = inner[1:-1].strip()
    match = _BEGIN_MATRIX.match(inner)
    if match is None:
        return None
    end = re.compile(rf"\\end ?\{{ ?{match['kind']} ?\}}$").search(inner)
    body = inner[match.end() : end.start()] if end else r"\begin"
    if r"\begin" in body:
        return None
    rows = [[unwrap(cell.strip()) for cell in row.split("&")] for row in body.strip().removesuffix(r"\\").split(r"\\")]
    return tuple(tuple(row) for row in rows) if len({len(row) for row in rows}) == 1 and all(map(all, rows)) else None


def read_values(text: str) -> Values | Relation | None:
    r"""Parse one or several values; None if the brackets are not balanced or an element is blank.

    >>> read_values("x = 1, y = 2").names, read_values("(a,b) = (1,2)").names, read_values("x = 1, 2").items
    (('x', 'y'), ('a', 'b'), ('1', '2'))
    >>> read_values(r"2 = x").items, read_values("x^2 = 2")
    (('2',), Relation(sides=('x^2', '2'), signs=('=',)))
    """
    text = text.strip()
    if cases := _CASES.match(text):
        text = cases[1].replace("&", " ").strip().removesuffix(r"\\").replace(r"\\", ",")
    while text[:1] == "{" and closing_bracket(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    text = without_qualifier(_MEMBER.sub("", text))
    parts = split(text)
    if not parts or not all(parts):
        return None
    if len(parts) == 1:
        return _read_one(parts[0])
    parts = [part for part in (_APPROXIMATELY.split(part)[0].strip() for part in parts) if part]
    sides = [EQUALS.split(part) for part in parts]
    if any(len(side) > 1 for side in sides):
        if all(len(side) == 2 and _names_values(side[0]) for side in sides):
            names = tuple(side[0].strip() for side in sides)
            if len(set(names)) > 1 and re.search(word("or"), text):
                return None  # "x = 1 or y = 2"
            if len({re.sub(r" ?_.*", "", name) for name in names}) == 1:  # "x_1 = 1, x_2 = 2" has no order
                names = ()
            items = tuple(side[1].strip() for side in sides)
            return Values(kind="list", items=items, names=names)
        if len(sides[0]) == 2 and is_name(sides[0][0]) and all(len(side) == 1 for side in sides[1:]):
            return Values(kind="list", items=(sides[0][1].strip(), *parts[1:]))
        return None
    return Values(kind="list", items=tuple(parts))


def _read_one(text: str) -> Values | Relation | None:
    text = _POINT.sub("", _ABOUT.sub(r" \\approx \1", text))
    exact, *rounded = _APPROXIMATELY.split(text)
    text = rounded.pop() if rounded and rounded[-1] and is_name(exact) else exact.strip()
    return _read_exact(text, rounded[-1].strip() if rounded else "")


def _read_exact(text: str, rounded: str) -> Values | Relation | None:
    sides = split(text, EQUALS)
    if not sides or not all(sides):
        return None
    if len(sides) == 1:
        value = _read_bracketed(text)
        return replace(value, rounded=rounded) if value else None
    if is_name(sides[-1]) and not is_name(sides[0]) and not has_words(sides[-1]):  # "2 = x"
        sides = sides[::-1]
    names = [side for side in sides[:-1] if _names_values(side)]
    others = tuple(side for side in sides[:-1] if not _names_values(side))
    if not names and len(sides) == 2 and letters(sides[0]) and not has_words(sides[0]):
        return Relation(sides=tuple(sides), signs=("=",))
    value = _read_bracketed(sides[-1])
    if value is None:
        return None
    if tuples := [name for name in names if _TUPLE_OF_NAMES.fullmatch(name)]:
        found = tuple(part.strip() for part in tuples[0].strip("() ").split(","))
        names = list(found) if value.kind == "tuple" and len(found) == len(value.items) else []
    return Values(
        kind=value.kind,
        items=value.items,
        names=tuple(names[:1] if value.kind == "single" else names if tuples else ()),
        brackets=value.brackets,
        sides=others,
        rounded=rounded,
    )


def _read_bracketed(text: str) -> Values | None:
    text = unwrap(text.strip())
    if text[:2] == r"\{" and closing_bracket(text, 1) == len(text) - 1:
        items = split(text[2:-2].strip())
        return Values(kind="set", items=tuple(items)) if items and all(items) else None
    if text[:1] in ("(", "[") and closing_bracket(text, 0) == len(text) - 1:
        items = split(text[1:-1].strip(), _COMMA)
        if items and len(items) > 1:
            return Values(kind="tuple", items=tuple(items), brackets=text[0] + text[-1]) if all(items) else None
    items = split(text)
    if items and len(items) > 1:
        return Values(kind="list", items=tuple(items)) if all(items) else None
    return Values(kind="single", items=(text,)) if text else None


# --- intervals and inequalities ------------------------------------------------------------------------------


def read_region(text: str) -> Region | Relation | None:
    r"""Parse a union of intervals or solved inequalities; a `Relation` if one is not solved, None if it is neither.

    >>> read_region("x > 2").alternatives
    (((Interval(brackets='()', left='2', right='∞'),),),)
    >>> read_region("x^2 > 4"), read_region("(1,2,3)"), read_region("5")
    (Relation(sides=('x^2', '4'), signs=('>',)), None, None)
    """
    whole = _without_set_braces(text)
    text = without_qualifier(whole)
    if text != whole and re.search(rf"{word('integers?|natural')}|\\mathbb ?\{{[^R]", whole[len(text) :]):
        return None
    if prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    parts, joints = _split_joined(text)
    if not parts:
        return None
    name, is_excluding = "", False
    conditions: list[Conditions] = []
    for index, part in enumerate(parts):
        continues = (  # "x \ne 1, 2", "all but 1 and 2"
            index > 0
            and (r"\ne" in parts[index - 1] or is_excluding)
            and not _RELATION.search(part)
            and not read_interval(part)
        )
        found = _read_condition(rf"{name or 'x'} \ne {part}" if continues else part)
        is_excluding = continues or bool(split(part, _WITHOUT) != [part])
        if found is None or isinstance(found, Relation):
            return found if len(parts) == 1 else Relation(sides=(text,), signs=("",)) if found else None
        its_name, its_conditions = found
        if its_name and name and its_name != name:
            return Relation(sides=(text,), signs=("",))
        name = its_name or name
        conditions.append(its_conditions)
    ends = [interval for found in conditions for condition in found for interval in condition]
    is_union = any(joint in ("or", "\\cup") for joint in joints)
    are_pairs = all(interval.brackets == "()" and "∞" not in interval.left + interval.right for interval in ends)
    if len(parts) > 1 and not name and not is_union and are_pairs:
        return None  # a list of pairs
    if all(interval.left == interval.right for interval in ends):
        return None  # a set of values
    if joints and not is_union:
        every = tuple(condition for found in conditions for condition in found)
        return Region(alternatives=(every,), name=name, is_listed="and" not in joints or not name)
    alternatives = [conditions[0]]
    for joint, its_conditions in zip(joints, conditions[1:], strict=True):
        if joint == "and":
            alternatives[-1] = (*alternatives[-1], *its_conditions)
        else:
            alternatives.append(its_conditions)
    return Region(alternatives=tuple(alternatives), name=name)


_JOINT: Final = re.compile(rf" ?(?:(?P<cup>\\cup(?![A-Za-z])|U ?(?=[(\[]))|{_SEPARATOR.pattern.strip(' ?')}) ?")


def _split_joined(text: str) -> tuple[list[str], list[str]]:
    parts = split(text, _JOINT)
    if not parts or not all(parts):
        return [], []
    joints, rest = [], text
    for part in parts[:-1]:
        rest = rest[rest.index(part) + len(part) :]
        match = _JOINT.match(rest)
        if match is None:
            return [], []
        joints.append(_kind_of(match))
        rest = rest[match.end() :]
    return parts, joints


def _kind_of(joint: re.Match[str]) -> str:
    if joint["cup"]:
        return "\\cup"
    if joint["or"] or re.search(word("or"), joint["word"] or ""):
        return "or"
    return "and" if joint["and"] or joint["word"] else ","


Conditions = tuple[tuple[Interval, ...], ...]


def _read_condition(text: str) -> tuple[str, Conditions] | Relation | None:
    """Return the variable and the conditions of one interval, set of points or relation."""
    text = _without_set_braces(text.strip())
    if text[:1] == "(" and closing_bracket(text, 0) == len(text) - 1 and _RELATION.search(text):
        text = text[1:-1]
    if outside := _OUTSIDE.match(text):
        excluded = _read_excluded(text[outside.end() :])
        return (outside[1], excluded) if excluded else None
    member = _MEMBER.match(text) or re.match(rf"^({_SYMBOL}) ?= ?(?=[(\[\\])", text)
    name, bare = (member[1], text[member.end() :]) if member else ("", text)
    base, *rest = split(bare, _WITHOUT) or [bare]
    interval = Interval(brackets="()", left="-∞", right="∞") if _REALS.fullmatch(base) else read_interval(base)
    if interval:
        excluded = tuple(condition for part in rest for condition in _read_excluded(part) or ())
        return (name, ((interval,), *excluded)) if bool(rest) == bool(excluded) else None
    if bare[:2] == r"\{" and (points := _read_points(bare)):
        return name, (tuple(Interval(brackets="[]", left=point, right=point) for point in points),)
    return _read_relation(text)


def _without_set_braces(text: str) -> str:
    such_that = _SUCH_THAT.match(text)
    return such_that[2].strip() if such_that and closing_bracket(text, 1) == len(text) - 1 else text


def _read_excluded(text: str) -> Conditions | None:
    """Return the conditions that exclude an interval, or points with or without braces."""
    if interval := read_interval(text):
        left = Interval(brackets="(" + ("]" if interval.brackets[0] == "(" else ")"), left="-∞", right=interval.left)
        right = Interval(brackets=("[" if interval.brackets[1] == ")" else "(") + ")", left=interval.right, right="∞")
        return ((left, right),)
    points = _read_points(re.sub(rf"^{_SYMBOL} ?= ?", "", text.strip()))
    return tuple(map(_all_but, points)) if points else None


def _read_points(text: str) -> tuple[str, ...] | None:
    if text.startswith(r"\{") and text.endswith(r"\}"):
        text = text[2:-2]
    elif text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    items = split(text.strip())
    return tuple(items) if items and all(items) and not any(has_words(item) for item in items) else None


def _all_but(point: str) -> tuple[Interval, Interval]:
    return Interval(brackets="()", left="-∞", right=point), Interval(brackets="()", left=point, right="∞")


def _read_relation(text: str) -> tuple[str, Conditions] | Relation | None:
    parts = _RELATION.split(text)
    sides, signs = [part.strip() for part in parts[::2]], parts[1::2]
    if not signs:
        return None
    relation = Relation(sides=tuple(sides), signs=tuple(signs))
    if not all(sides) or len(signs) > 2 or "=" in text:
        return relation
    names = [index for index, side in enumerate(sides) if re.fullmatch(_SYMBOL, side) and not _INFINITY.fullmatch(side)]
    if len(signs) == 1:
        for index in names:
            other, sign = sides[1 - index], signs[0]
            if letters(sides[index]) & letters(other):
                continue
            if index == 1:
                sign = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(sign, sign)
            end = _end(other)
            if sign == r"\ne":
                return sides[index], (_all_but(other),)
            if sign in (">", r"\ge"):
                return sides[index], ((Interval(brackets=("(" if sign == ">" else "[") + ")", left=end, right="∞"),),)
            return sides[index], ((Interval(brackets="(" + (")" if sign == "<" else "]"), left="-∞", right=end),),)
        return relation
    ascending = {"<", r"\le"}
    if 1 not in names or letters(sides[1]) & (letters(sides[0]) | letters(sides[2])):
        return relation
    if set(signs) <= ascending:
        left, right, (low, high) = sides[0], sides[2], signs
    elif not set(signs) & {*ascending, r"\ne"}:
        left, right, (high, low) = sides[2], sides[0], signs
    else:
        return relation
    brackets = ("(" if low in "<>" else "[") + (")" if high in "<>" else "]")
    return sides[1], ((Interval(brackets=brackets, left=_end(left), right=_end(right)),),)


def read_interval(text: str) -> Interval | None:
    """Parse one interval; None if it is none, such as a triple or a closed bracket at infinity."""
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or closing_bracket(text, 0) != len(text) - 1:
        return None
    ends = split(text[1:-1], _COMMA)
    if not ends or len(ends) != 2 or not all(ends):
        return None
    left, right = map(_end, ends)
    misplaced = left == "∞" or right == "-∞" or (left == "-∞" and text[0] == "[") or (right == "∞" and text[-1] == "]")
    return None if misplaced else Interval(brackets=text[0] + text[-1], left=left, right=right)


def _end(text: str) -> str:
    infinity = _INFINITY.fullmatch(text)
    return text if infinity is None else "-∞" if infinity["minus"] else "∞"
