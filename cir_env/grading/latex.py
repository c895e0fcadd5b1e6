r"""Normalises the text of answers, and prepares it for a LaTeX parser.

Every function is pure and total on strings.
"""

import re
import unicodedata

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2012\u2013\u2014\u2212", "-"),
        **{"×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "∓": r"\mp "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup "},
        **{"∞": r"\infty ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}"},
    }
)
_VULGAR_FRACTION = re.compile("[¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_WRAPPERS = ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**")
_BOX = re.compile(r"\\(?:boxed|fbox|underline)\s*\{")
_BOX_OR_TEXT = re.compile(r"\\(?:boxed|fbox|underline|text|textbf|textit|mathrm|mathbf|mathit|mbox)\s*\{")
_REPLACEMENTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"√\s*(?:(\d+|[A-Za-z](?![A-Za-z]))|\(([^()]*)\)|\{([^{}]*)\})", r"\\sqrt{\1\2\3}"),
        (r"`+", ""),
        (r"\\text\s*\{\s*\}|\\(?:phantom|hspace)\s*\{[^{}]*\}", ""),
        (r"\\(?:left|right|displaystyle|bf|large|Large)(?![a-zA-Z])", ""),
        (r"(?<=\d)\s*\^\s*(\{\s*)?\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}(?(1)\s*\})", ""),
        (r"(?<![A-Za-z])([ap])\. ?m\.?(?![A-Za-z])", r"\1m"),
        (r"\\log\s*_\s*(?:e|\{\s*e\s*\})(?![A-Za-z])", r"\\ln"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\lbrace(?![a-zA-Z])\s*", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:text)?color\s*\{\s*\w+\s*\}\s*\{([^{}]*)\}", r"\1"),
        (r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
        (r"(?<![\d.])\\(?:text|textbf|mathrm|mathbf)\s*\{\s*(\d[\d.]*)\s*\}", r"\1"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\{\s*(-?\d+)\s*\}\s*/\s*\{\s*(\d+)\s*\}", r"\1/\2"),
        (r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"{\\frac{\1}{\2}}"),
        (r"^([^{}]*)\\over(?![a-zA-Z])([^{}]*)$", r"\\frac{\1}{\2}"),
        (r"(?<=\d)\s*(?:\{\s*,\s*\}|,\s*\\!)\s*(?=\d)", ","),
        (r"(?<=\d)\s*\{\s*:\s*\}\s*(?=\d)", ":"),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;: ]|quad(?![a-zA-Z]))|~", " "),
        (r"\\\$", "$"),
        (r"\\%", "%"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z])|\{\s*°\s*\}|°)|\\degree(?![a-zA-Z])", "°"),
        (r"\s+", " "),
    )
)


def tidy(text: str) -> str:
    r"""Remove cosmetics from an answer: dollar signs, wrappers, spacing commands, a final full stop, a leading plus.

    >>> tidy(r" $\boxed{\dfrac{1}{2}}.$ "), tidy(r"1{,}234"), tidy(r"\text{ east }"), tidy("+7.")
    ('\\frac{1}{2}', '1,234', 'east', '7')
    """
    return _strip(text, _BOX_OR_TEXT)


def for_algebra(text: str) -> str:
    r"""Normalise an answer for a LaTeX parser: like `tidy`, but text remains marked as text.

    >>> for_algebra(r"$\text{east}.$"), for_algebra("25%"), for_algebra(r"\boxed{90°}"), for_algebra("2pi")
    ('\\text{east}', '25\\%', '90^{\\circ}', '2\\pi ')
    >>> for_algebra(r"\frac{1 \pm x}{2}"), for_algebra("3 ≥ x > 1"), for_algebra(r"\sin 30°")
    ('\\frac{1 + x}{2}, \\frac{1 - x}{2}', '1 < x \\le 3', '\\sin(\\frac{30\\pi}{180})')
    """
    text = _strip(text, _BOX).replace("$", "").replace("%", r"\%").replace("**", "^")
    text = _OF_DEGREES.sub(r"\1(\\frac{\2\3\4\\pi}{180})", text).replace("°", r"^{\circ}")
    text = _SUCH_THAT.sub(r"\1", text)
    text = re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text)
    return _ascending(_both_signs(text))


_OF_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)) ?(?:\( ?([\d.]+) ?° ?\)|\{ ?([\d.]+) ?° ?\}|([\d.]+) ?°)")
_SUCH_THAT = re.compile(r"^\\\{ ?[A-Za-z] ?(?:\\in ?\\mathbb ?\{? ?R ?\}? ?)?(?:\\mid(?![A-Za-z])|\\?\||:)(.*)\\\}$")
_PLUS_OR_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_GREATER = re.compile(r"(>|\\g(?:t|eq?|eqslant)(?![a-zA-Z]))")


def _both_signs(text: str) -> str:
    r"""Expand an answer with one ``\pm`` to the two answers that it means."""
    if len(_PLUS_OR_MINUS.findall(text)) != 1:
        return text
    both = (_PLUS_OR_MINUS.sub(sign, text) for sign in "+-")
    return ", ".join(one.strip().removeprefix("+").lstrip() for one in both)


def _ascending(text: str) -> str:
    """Reverse a chain of two "greater" signs."""
    parts = [part.strip() for part in _GREATER.split(text)]
    if len(parts) != 5 or "," in text:
        return text
    signs = ("<" if sign in (">", r"\gt") else r"\le" for sign in (parts[3], parts[1]))
    return f"{parts[4]} {next(signs)} {parts[2]} {next(signs)} {parts[0]}"


def _strip(text: str, command: re.Pattern[str]) -> str:
    text = _spell_out(text)
    for pattern, new in _REPLACEMENTS:
        text = pattern.sub(new, text)
    previous = None
    while text != previous:
        previous = text
        text = text.strip().removesuffix(".").removesuffix(r"\\").rstrip().removeprefix("+").lstrip()
        text = _unwrap(text, command)
    return text


def _spell_out(text: str) -> str:
    r"""Replace Unicode signs by LaTeX.

    >>> _spell_out("3½"), _spell_out("7 cm²"), _spell_out("1011₂"), _spell_out("（−∞，２）")
    ('3 \\frac{1}{2}', '7 cm^{2}', '1011_{2}', '(-\\infty ,2)')
    """
    if text.isascii():
        return text
    text = _VULGAR_FRACTION.sub(_frac, text)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{_compatible(match[0])}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{_compatible(match[0])}}}", text)
    return _compatible(text.translate(_SIGNS)).translate(_SIGNS)


def _frac(match: re.Match[str]) -> str:
    top, bottom = _compatible(match[0]).split("\u2044")
    return rf" \frac{{{top}}}{{{bottom}}}"


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _unwrap(text: str, command: re.Pattern[str]) -> str:
    for start, end in _WRAPPERS:
        if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end):
            inner = text[len(start) : -len(end)]
            return text if start in inner or end in inner else inner
    if text.startswith("{") and "," not in text and closing_bracket(text, 0) == len(text) - 1:
        return text[1:-1]
    match = command.match(text)
    if match and closing_bracket(text, match.end() - 1) == len(text) - 1:
        return text[match.end() : -1]
    return text


def closing_bracket(text: str, start: int) -> int:
    """Return the index at which the bracket at `start` closes, without telling kinds apart; -1 if it does not."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return -1


def same_text(gold: str, answer: str) -> bool:
    r"""Whether two tidy answers are equal up to insignificant spaces.

    >>> same_text(r"(3, \frac{\pi}{2})", r"(3,\frac{\pi}{2})"), same_text("12", "1 2")
    (True, False)
    """
    return _squeeze(gold) == _squeeze(answer) != ""


def _squeeze(text: str) -> str:
    # Only a space between two letters or digits is significant.
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)
