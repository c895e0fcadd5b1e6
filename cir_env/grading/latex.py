r"""Normalises the layout of answers: what TeX typesets alike, and what Python prints for it, becomes the same text.

Every function is pure and total on strings. The result is LaTeX again: fractions and roots have braces, fonts and sizes
are gone, everything that is text stands in ``\text{}``, and the functions of Python and sympy are commands.
"""

import re
import unicodedata
from functools import lru_cache

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2012\u2013\u2014\u2212", "-"),
        **{"×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "∓": r"\mp "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "…": r"\ldots "},
        **{"∖": r"\setminus ", "º": "°", "˚": "°", "。": ".", "¢": r"\text{ cents}"},
        **{"∞": r"\infty ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "′": "'", "→": r"\to ", "⇒": r"\Rightarrow "},
    }
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"
)


def _letter(name: str) -> str:
    case = "CAPITAL" if name[0].isupper() else "SMALL"
    return unicodedata.lookup(f"GREEK {case} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")


_SIGNS |= str.maketrans({_letter(name): rf"\{name} " for name in _GREEK.split()})
_VULGAR_FRACTION = re.compile("[¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_DOLLAR = re.compile(r"(?<!\\)\$")
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ue000-\uf8ff]")

_TEXT_FONTS = "text(?:rm|bf|it|normal|up|sf|tt|md|sc|sl)?|mbox|hbox|emph"
_MATH_FONTS = (
    "mathbf|mathit|mathsf|mathtt|mathnormal|mathop|mathbin|mathrel|mathord|mathring|mathscr|mathfrak|boldsymbol|bm|pmb|ensuremath|"
    "underline|uline|boxed|fbox|framebox|makebox|vbox|bbox|smash|[lrc]lap|math[lrc]lap"
)
_SIZES = (
    "displaystyle|textstyle|scriptstyle|scriptscriptstyle|tiny|scriptsize|footnotesize|small|normalsize|large|Large|"
    "LARGE|huge|Huge|HUGE|null|relax|sc|bf|rm|it|sf|tt|sl|em|bfseries|itshape|boldmath|nonumber|notag|hfill|limits|nolimits|"
    "blacksquare|square|Box|checkmark|qed|qedsymbol|allowbreak|strut|mathstrut"
)
_OPERATORS = {
    **{
        name: name
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "gcd", "lcm", "max", "min")
    },
    **{name: name for name in ("sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "det", "deg", "sgn")},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan")},
    **{"acot": "arccot", "asec": "arcsec", "acsc": "arccsc", "arccot": "arccot"},
}
_ALSO_WORDS = ("det", "deg", "max", "min", "sec")
_PYTHON = {
    **{name: rf"\{latex}" for name, latex in _OPERATORS.items() if name not in _ALSO_WORDS},
    **{"pi": r"\pi", "infinity": r"\infty", "oo": r"\infty", "inf": r"\infty"},
    **{name: rf"\{name}" for name in ("alpha", "beta", "gamma", "theta", "lambda", "omega", "phi", "varphi", "infty")},
}
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("***", "***"),
    ("**", "**"),
    ("__", "__"),
    ("_", "_"),
    ("*", "*"),
    ('"', '"'),
    ("“", "”"),
    ("'", "'"),
)

_REPLACEMENTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"√\s*(?:(\d+|[A-Za-z](?![A-Za-z]))|\(([^()]*)\)|\{([^{}]*)\})", r"\\sqrt{\1\2\3}"),
        (r"`+", ""),
        (r"\\text\s*\{\s*([,;])\s*\}", r"\1"),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\&", r"\\text{ and }"),
        (r"\\Bbb(?![A-Za-z])", r"\\mathbb"),
        (r"\\bigcup(?![A-Za-z_])", r"\\cup"),
        (r"(?<=\d) ?(?:[Rr]|\\text\s*\{\s*rem\.?\s*\}) ?(?=\d)", r"\\text{ remainder }"),
        (r"(?<=\d)\s*(?:\{\s*\})?\s*\^\s*\{?\s*o\s*\}?(?![A-Za-z])", "°"),
        (r"(?<=\d)\s*\{\s*\}\s*(?=\^)", ""),
        (r"\\text\s*\{\s*[.:]?\s*\}|\\(?:[vh]?phantom|[hv]space\*?|tag\*?|label)\s*\{[^{}]*\}", ""),
        (r"\\(?:left|right)\s*\.", ""),
        (rf"\\(?:{_SIZES})(?![A-Za-z])", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
        (
            r"\\(?:text)?color(?:box)?\s*(?:\[\w+\])?\s*\{[^{}]*\}\s*|\\(?:style|class|cssId|raisebox)\s*\{[^{}]*\}\s*",
            "",
        ),
        (r"\\(?:[hv]skip|m?kern)\s*-?[\d.]+ ?\w\w", " "),
        (r"\\(?:enspace|thinspace|enskip|par|newline)(?![A-Za-z])|\\>", " "),
        (r"\\math[a-z]+\s*(?:\{\s*(\d[\d.,]*)\s*\}|(?=\d))|\\text[a-z]*\s+(?=\d)", r"\1"),
        (r"\\(?:triangleq|coloneqq|stackrel\{[^{}]*\}\{=\})(?![A-Za-z])", "="),
        (r"\(\s*mod\s*(\d+)\s*\)", r"\\pmod{\1}"),
        (r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])|(?<=\d)\s*\^\s*\{?\s*(?:st|nd|rd|th)\s*\}?(?![A-Za-z])", ""),
        (r"(?<=\d)\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}", ""),
        (r"\\imath(?![A-Za-z])", "i"),
        (r"\\\\\s*\[[^\[\]]*\]|\\cr(?![A-Za-z])", r"\\\\"),
        (r"\\pmatrix\s*\{([^{}]*)\}", r"\\begin{pmatrix}\1\\end{pmatrix}"),
        (r"Rational\(\s*(-?\d+)\s*,\s*(\d+)\s*\)", r"\\frac{\1}{\2}"),
        (r"(?<=\d)\s*\^\s*(\{\s*)?\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}(?(1)\s*\})", ""),
        (r"(?<![A-Za-z])([ap])\. ?m\.?(?![A-Za-z])", r"\1m"),
        (r"\\log\s*_\s*(?:e|\{\s*e\s*\})(?![A-Za-z])", r"\\ln"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\lbrace(?![a-zA-Z])\s*", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:lvert|rvert|vert)(?![a-zA-Z])\s*", "|"),
        (r"\\(?:lbrack)(?![a-zA-Z])\s*", "["),
        (r"\\(?:rbrack)(?![a-zA-Z])\s*", "]"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:mathbb|mathbf|mathrm)\s*(?:R(?![A-Za-z])|\{\s*R\s*\})|\\(?:R|Reals|reals)(?![a-zA-Z])", r"\\mathbb{R}"),
        (r"\\mathbb\s*([A-Z])(?![A-Za-z])", r"\\mathbb{\1}"),
        (r"\\mathrm\s*\{\s*([A-Za-z])\s*\}|\\mathrm\s+([A-Za-z])(?![A-Za-z])", r"\1\2"),
        (r"\\(?:text|operatorname)\s*\{\s*([ei])\s*\}", r"\1"),
        (rf"\\(?:{_TEXT_FONTS}|mathrm)(?=\s*\{{)", r"\\text"),
        (r"(?<![\d.])\\text\s*\{\s*(\d[\d.]*)\s*\}", r"\1"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\{\s*(-?\d+)\s*\}\s*/\s*\{\s*(\d+)\s*\}", r"\1/\2"),
        (r"(?<=\d)\s*(?:\{\s*,\s*\}|,\s*\\!)\s*(?=\d)", ","),
        (r"(?<=\d)\s*\{\s*:\s*\}\s*(?=\d)", ":"),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|~", " "),
        (r"(?:\\q?quad(?![a-zA-Z])\s*)+", r"\\quad "),
        (r"^(?:\s*\\quad)+|(?:\\quad\s*)+$|(?<=[,;&=<>(\[{+])\s*\\quad|\\quad\s*(?=[,;&=<>)\]}+\\.])", " "),
        (r"\\\$|\\textdollar(?![A-Za-z])|(?<![A-Za-z])(?:USD|EUR|GBP|Rs\.?)\s*(?=\d)", "$"),
        (r"\\%|(?<=[\d}])\s*(?:\\text\s*\{\s*percent\s*\}|percent(?![A-Za-z]))", "%"),
        (r"\\\{\s*\\\}|^\s*\{\s*\}\s*$", r"\\emptyset "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"<=|\\(?:leq|leqslant|leqq)(?![a-zA-Z])", r"\\le "),
        (r">=|\\(?:geq|geqslant|geqq)(?![a-zA-Z])", r"\\ge "),
        (r"!=|\\neq(?![a-zA-Z])|\\not\s*=", r"\\ne "),
        (r"\\(?:dots|cdots|dotsc|dotsb|hdots)(?![a-zA-Z])|\.\.\.+", r"\\ldots "),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z])|\{\s*°\s*\}|°)|\\degree(?![a-zA-Z])", "°"),
        (r"\s+", " "),
    )
)
_AROUND = re.compile(
    r"^(?:\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to|approx|colon)(?![A-Za-z])|=>|->|=|:)|[.,;:✓✅]$|\\\\$|\\quad$"
)
_ENVIRONMENT = re.compile(
    r"^\\begin ?\{(?P<name>equation|align|aligned|gather|gathered|split|math|displaymath|center|cases|array)\*?\}"
    r"(?:\{[^{}]*\})?(?P<inner>(?:(?!\\\\|\\begin).)*)\\end ?\{(?P=name)\*?\}$"
)
_SYSTEM = re.compile(r"^\\\{ ?\\begin ?\{array\} ?\{[^{}]*\}(.*)\\end ?\{array\}$")
_INTERVAL = re.compile(r"(?:sympy\.)?Interval(?:\.(open|Lopen|Ropen))?\(([^(),]*),([^(),]*)\)")
_UNION = re.compile(r"^(?:sympy\.)?Union\((.*)\)$")
_OVER = re.compile(r"\\(over|choose)(?![A-Za-z])")
_WRAPPED = re.compile(rf"\\(?:{_MATH_FONTS})\s*\{{")
_WHOLE_TEXT = re.compile(r"\\text ?\{")
_OPERATOR = re.compile(r"\\(?:operatorname\*?|mathrm|text)\s*\{\s*([A-Za-z]+)\s*\}")
_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![A-Za-z])")
_TOKEN = re.compile(r" *(\\[A-Za-z]+|\\.|.)")
_CHOOSE = re.compile(r"(?<![A-Za-z\\])(?:math\.comb|comb|binomial) ?\( ?(\w+) ?, ?(\w+) ?\)")
_FACTORIAL = re.compile(r"(?<![A-Za-z\\])(?:math\.)?factorial ?\( ?(\w+) ?\)")
_E = re.compile(r"(?<![A-Za-z])(?:math|np|numpy)\.e(?![A-Za-z])")
_FUNCTION = re.compile(r"(?<![A-Za-z\\{])(?:(?:math|np|numpy|sympy|sp|cmath)\.)?([A-Za-z]+)(?![A-Za-z_])")
_ROOT = re.compile(
    r"(?<![A-Za-z\\])(?:(?:math|np|numpy|sympy|sp)\.)?(sqrt|cbrt|abs|Abs) ?(?:(\()|(\d+|[A-Za-z])(?![A-Za-z]))"
)
_MATRIX = re.compile(r"^(?:(?:sympy\.|np\.|sp\.)?(?:Matrix|array)\( ?)?(\[ ?\[.*\] ?\])(?: ?\))?$")
_PRODUCT = re.compile(r"(?<![\\A-Za-z])(?<!_\{)[A-Za-z]{2,3}(?![A-Za-z])")
_CIS = re.compile(
    r"\\(?:operatorname|text) ?\{ ?cis ?\} ?"
    r"(?:\(([^()]*)\)|\{([^{}]*)\}|(\\frac\{[^{}]*\}\{[^{}]*\}|[\d.]+ ?°?|\\[a-z]+))"
)
_OF_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)) ?(?:\( ?([\d.]+) ?° ?\)|\{ ?([\d.]+) ?° ?\}|([\d.]+) ?°)")


def tidy(text: str) -> str:
    r"""Normalise the layout of an answer, and unwrap it if all of it is text.

    >>> tidy(r" $\boxed{\dfrac{1}{2}}.$ "), tidy(r"1{,}234"), tidy(r"\text{ east }"), tidy("+7.")
    ('\\frac{1}{2}', '1,234', 'east', '7')
    >>> tidy(r"\bigl(\boldsymbol{x}, \frac1n\bigr)"), tidy("sqrt(5)/2 + acos(1/8)")
    ('({x}, \\frac{1}{n})', '\\sqrt{5}/2 + \\arccos (1/8)')
    """
    previous, text = None, layout(text)
    while text != previous:
        previous = text
        text = _trim(_unwrap(text, _WHOLE_TEXT))
    return text


@lru_cache(maxsize=1024)  # the gold answer is read again with each answer, and an answer twice
def layout(text: str) -> str:
    r"""Normalise the layout of an answer; text remains in ``\text{}``.

    >>> layout(r"$\mathrm{east}.$"), layout(r"\frac\pi4"), layout("{{1,2}}"), layout("Matrix([[1, 2], [3, 4]])")
    ('\\text{east}', '\\frac{\\pi}{4}', '1,2', '\\begin{pmatrix}1& 2\\\\3& 4\\end{pmatrix}')
    """
    text = _UNREADABLE.sub("\ufffd", _spell_out(text))
    if len(_DOLLAR.findall(text)) % 2 == 0:  # they enclose formulas; a single one is a currency sign
        text = _DOLLAR.sub(" ", text)
    for pattern, new in _REPLACEMENTS:
        text = pattern.sub(new, text)
    text = _ENVIRONMENT.sub(lambda match: match["inner"].replace("&", " "), text.strip())
    text = _SYSTEM.sub(r"\\begin{cases}\1\\end{cases}", text)
    text = _OPERATOR.sub(_operator, text)
    text = _without_fonts(_braced_arguments(_without_over(text)))
    previous = None
    while text != previous:
        previous = text
        text = _trim(text)
        for start, end in _WRAPPERS:
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end):
                inner = text[len(start) : -len(end)]
                text = text if start in inner or end in inner else inner
        if text.startswith("{") and closing_brace(text, 0) == len(text) - 1:
            text = text[1:-1]
    return _trim(_from_python(text))


def for_algebra(text: str) -> str:
    r"""Prepare an expression of normal layout for a LaTeX parser.

    >>> for_algebra("25%"), for_algebra("90°"), for_algebra(r"\sin 30°"), for_algebra("x**2")
    ('25\\%', '90^{\\circ}', '\\sin(\\frac{30\\pi}{180})', 'x^2')
    """
    text = text.replace("$", "").replace("%", r"\%").replace("**", "^")
    text = re.sub(r"\^ ?(-\d+|\((?:[^()]*)\))", r"^{\1}", text)
    text = _OF_DEGREES.sub(r"\1(\\frac{\2\3\4\\pi}{180})", text).replace("°", r"^{\circ}")
    text = re.sub(r"(?<![\\A-Za-z])([A-Za-z]) (?=[A-Za-z](?![A-Za-z]))", r"\1", text)
    text = _PRODUCT.sub(_product, text)
    return re.sub(r"(/ ?\d+) +(?=[A-Za-z]|\\sqrt|\\pi)", r"\1 \\cdot ", text)


def _product(match: re.Match[str]) -> str:
    """Multiply letters side by side; d comes last, since the parser takes it for a differential."""
    if "d" in match[0][:-1] and match.string[match.end() : match.end() + 1] in ("^", "_"):
        return match[0]
    return r" \cdot ".join(sorted(match[0], key="d".__eq__) if "d" in match[0] else match[0])


def _trim(text: str) -> str:
    return _AROUND.sub("", text.strip()).strip().removeprefix("+").lstrip()


def _unwrap(text: str, command: re.Pattern[str]) -> str:
    match = command.match(text)
    return text[match.end() : -1] if match and closing_brace(text, match.end() - 1) == len(text) - 1 else text


def _operator(match: re.Match[str]) -> str:
    name = match[1]
    if match[0].startswith(r"\text") and (name in _ALSO_WORDS or name not in ("abs", *_OPERATORS)):
        return match[0]
    if name == "abs":
        return r"\text{abs}"
    if name in _OPERATORS:
        return rf"\{_OPERATORS[name]} "
    return (
        rf"\operatorname{{{name}}}"
        if name == "cis" or match[0].startswith(r"\operatorname{Li")
        else rf"\text{{{name}}}"
    )


def _braced_arguments(text: str) -> str:
    """Put braces around the arguments of fractions, binomials and roots, as TeX reads them."""
    for match in reversed(list(_ARGUMENTS.finditer(text))):  # from the right: arguments are then in braces already
        end = match.end()
        if match[1] == "sqrt" and (index := re.compile(r" *\[[^\[\]]*\]").match(text, end)):
            end = index.end()
        head, arguments = text[match.start() : end], []
        for _ in range(1 if match[1] == "sqrt" else 2):
            argument, end = _argument(text, end)
            arguments.append(argument)
        braced = "".join(f"{{{argument}}}" for argument in arguments)
        if all(arguments) and text[len(head) + match.start() : end] != braced:
            text = text[: match.start()] + head + braced + text[end:]
    return text


def _argument(text: str, start: int) -> tuple[str, int]:
    """Return the argument that starts at an index, without braces, and where it ends; "" if there is none."""
    token = _TOKEN.match(text, start)
    if token is None or token[1] in "})]&=+,":
        return "", start
    if token[1] == "{":
        end = closing_brace(text, token.end() - 1)
        return (text[token.end() : end].strip(), end + 1) if end > 0 else ("", start)
    end = token.end()
    if token[1] in (r"\frac", r"\binom", r"\sqrt", r"\text"):  # their own arguments are in braces already
        while text[end : end + 1] == "{" and (close := closing_brace(text, end)) > 0:
            end = close + 1
    return text[token.start() : end].strip(), end


def _without_over(text: str) -> str:
    r"""Turn ``{1 \over 2}`` into a fraction; the group around it, or the whole text, has both parts."""
    while match := _OVER.search(text):
        start, depth = match.start() - 1, 0
        while start >= 0 and depth >= 0:
            depth += (text[start] == "}") - (text[start] == "{")
            start -= 1
        start = start + 1 if depth < 0 else -1
        end = closing_brace(text, start) if start >= 0 else len(text)
        if end < 0:
            return text
        command = {"over": "frac", "choose": "binom"}[match[1]]
        inner = rf"\{command}{{{text[start + 1 : match.start()].strip()}}}{{{text[match.end() : end].strip()}}}"
        text = text[: max(start, 0)] + inner + text[end + 1 :]
    return text


def _without_fonts(text: str) -> str:
    while match := _WRAPPED.search(text):
        end = closing_brace(text, match.end() - 1)
        if end < 0:
            return text
        inner = text[match.end() : end]
        text = text[: match.start()] + (f"{{{inner}}}" if inner.strip() else "") + text[end + 1 :]
    return text


def _from_python(text: str) -> str:
    r"""Turn what Python and sympy print into LaTeX.

    >>> _from_python("4*sqrt(sqrt(2) + 1) - exp(2)"), _from_python("math.sqrt(3)/2"), _from_python("abs(x)")
    ('4*\\sqrt{\\sqrt{2} + 1} - e^{2}', '\\sqrt{3}/2', '|x|')
    """
    if matrix := _MATRIX.match(text):
        rows = matrix[1].strip("[] ")
        cells = re.sub(r"\] ?, ?\[", r"\\\\\\\\", rows).replace(",", "&").replace(r"\\\\", r"\\")
        if not re.search(r"[\[\]()]", cells):
            return rf"\begin{{pmatrix}}{cells}\end{{pmatrix}}"
    text = _UNION.sub(lambda match: re.sub(r"\), ?Interval", r") \\cup Interval", match[1]), text)
    text = _INTERVAL.sub(_interval, text)
    text = _E.sub("e", text.replace(r"\text{abs}", "abs"))
    for match in reversed(list(_ROOT.finditer(text))):
        text = _replace_call(
            text, match, {"sqrt": (r"\sqrt{", "}"), "cbrt": (r"\sqrt[3]{", "}")}.get(match[1], ("|", "|"))
        )
    for match in reversed(list(re.finditer(r"(?<![A-Za-z])\\?(?:(?:math|np|sympy)\.)?(exp) ?(\()()", text))):
        text = _replace_call(text, match, ("e^{", "}"))
    text = re.sub(r"(?<=\*)I(?![A-Za-z])", "i", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _FACTORIAL.sub(r"\1!", text)
    has_commands = "\\" in text

    def name(match: re.Match[str]) -> str:
        is_called = text[match.end() :].lstrip().startswith("(")
        found = rf"\{match[1]}" if match[1] in _ALSO_WORDS and is_called else _PYTHON.get(match[1])
        if match[1] == "log" and not has_commands and "log" in text:
            found = r"\ln"
        return f"{found} " if found else match[0]

    text = _FUNCTION.sub(name, text)
    text = _CIS.sub(lambda match: _cis(match[1] or match[2] or match[3]), text)
    return text


def _interval(match: re.Match[str]) -> str:
    kind, left, right = match.groups()
    opening = "(" if kind in ("open", "Lopen") or "oo" in left else "["
    return f"{opening}{left},{right}{')' if kind in ('open', 'Ropen') or 'oo' in right else ']'}"


def _cis(angle: str) -> str:
    return rf"(\cos({angle}) + i\sin({angle}))"


def _replace_call(text: str, match: re.Match[str], around: tuple[str, str]) -> str:
    if match[2]:
        end = closing_bracket(text, match.end() - 1)
        inner = text[match.end() : end]
        return text if end < 0 else text[: match.start()] + around[0] + inner + around[1] + text[end + 1 :]
    return text[: match.start()] + around[0] + (match[3] or "") + around[1] + text[match.end() :] if match[3] else text


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


def closing_bracket(text: str, start: int) -> int:
    """Return the index at which the bracket at `start` closes, without telling kinds apart; -1 if it does not."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return -1


def closing_brace(text: str, start: int) -> int:
    r"""Return the index of the brace that closes the one at `start`, skipping ``\{`` and ``\}``; -1 if none does."""
    depth, index = 0, start
    while index < len(text):
        if text[index] == "\\":
            index += 1
        else:
            depth += (text[index] == "{") - (text[index] == "}")
            if depth == 0:
                return index
        index += 1
    return -1


def same_text(gold: str, answer: str) -> bool:
    r"""Whether two texts of normal layout are equal up to insignificant spaces.

    >>> same_text(r"(3, \frac{\pi}{2})", r"(3,\frac{\pi}{2})"), same_text("12", "1 2")
    (True, False)
    """
    return canonical(gold) == canonical(answer) != ""


def canonical(text: str) -> str:
    r"""Return an expression of normal layout without what cannot change it, to compare it with others as text.

    >>> canonical(r"3 \cdot r^{2} + \sqrt{ 2 }"), canonical("1 2")
    ('3r^2+\\sqrt{2}', '1 2')
    """
    text = re.sub(r"\^ ?\{ ?(\w) ?\}", r"^\1", squeeze(text))
    text = re.sub(r"(?<=\d)(?: ?\\(?:cdot|times)(?![A-Za-z]) ?|\*)(?=[A-Za-z\\])", "", text)
    return re.sub(r"(?<=\d) (?=[A-Za-z])|(?<=[A-Za-z]) (?=\d)|(?<=[^A-Za-z\\][A-Za-z]) (?=[A-Za-z])", "", text)


def squeeze(text: str) -> str:
    """Remove insignificant spaces: only one between two letters or digits is significant."""
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)
