"""Random templates against Jinja2: expressions over every filter, test and method with whatever arguments come, and nested
statements with random white-space control. The grammar makes many that fail; then ours must fail too. What we refuse in so many
words (not supported, over 64 bits) counts as neither. The seed is printed; SUPERNODE_SEED and SUPERNODE_RANDOM (how many) set it."""
import os, random

from test_template import SEED, VARIABLES, folder_for, oracle, ours

ATOMS = ["n", "s", "u", "l", "d", "objs", "deep", "missing", "none", "true", "false", "0", "1", "2", "-1", "3", "2.5", "0.1", '""', '"a"',
         '"ab cd"', '"Straße"', '" x "', '"a,b,,c"', "[]", "{}", "[1,2,3]", '["b","A","c"]', "(1,2)", '{"a":1,"b":[2]}', "range(4)",
         "d.k", "d.z", "l[0]", "objs[1].name", "objs[0]", '"12"', '"1.5e3"', '"x\\ny\\n"', '"<b>"', "d.items()", '"%s-%s"', '"{}"']
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "list", "first", "last", "sort", "reverse", "join", 'join("-")',
           "string", "int", "float", "abs", "round", "round(1)", "tojson", "tojson(indent=1)", 'default("D")', 'default("D",true)',
           'replace("a","b")', "unique|list", "min", "max", "sum", 'map("string")|list', 'map("upper")|join', "select|list",
           'reject("none")|list', 'select("string")|list', "batch(2)|list", "slice(2)|list", "dictsort", "items|list", "indent",
           "truncate(4)", "wordcount", "center(9)", "e", "escape|string", "safe", "urlencode", 'map(attribute="name")|list',
           'selectattr("n")|list', 'groupby("g")', 'attr("k")', "count", 'format("x","y")', "sort(reverse=true)", 'map("length")|list',
           "xmlattr", "filesizeformat", "forceescape", 'map("first")|list', "reverse|list"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "odd",
         "even", "lower", "upper", "true", "false", "callable", "eq 1", "in l", "divisibleby 2", "gt 1", "sameas none", "escaped",
         'ne "a"', "lt 5"]
METHODS = ["upper()", "lower()", "strip()", "split()", 'split(",")', 'split(" ",1)', 'rsplit(",",1)', "splitlines()", "title()",
           "capitalize()", 'startswith("a")', 'endswith("x")', 'replace("a","b",1)', 'find("b")', 'count("a")', "isdigit()", "isalpha()",
           'get("k")', 'get("zz",3)', "keys()", "values()", "items()", "items()|list", "index(1)", 'join(["x","y"])', "zfill(5)",
           "ljust(5)", 'rjust(5,"*")', "center(6)", 'partition(",")', 'rpartition(",")', 'lstrip("a ")', 'rstrip()', "swapcase()",
           "casefold()", 'removeprefix("a")', 'removesuffix("d")', "isupper()", "istitle()", "isalnum()", "format(1,2)", "name", "k", "0",
           "append(1)", "expandtabs(3)", 'rfind("a")', "isnumeric()"]
OPS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"]
SLICES = ["[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[::2]", '["k"]', '["a"]', "[1]", "[0:2]", "[5]", "[-2:]", "[none:1]", "[-1:0:-1]"]
SEQUENCES = ["l", "[1,2]", "[]", "d", '"ab"', "range(2)", 'objs|map(attribute="n")']


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def one(self, *choices):
        return self.r.choice(choices)

    def expression(self, d):
        if d <= 0:
            return self.one(*ATOMS)
        kinds = [lambda: f"{self.expression(d - 1)}|{self.one(*FILTERS)}", lambda: f"({self.expression(d - 1)})|{self.one(*FILTERS)}",
                 lambda: f"({self.expression(d - 1)}).{self.one(*METHODS)}", lambda: f"({self.expression(d - 1)}){self.one(*SLICES)}",
                 lambda: f"({self.expression(d - 1)}) {self.one(*OPS)} ({self.expression(d - 1)})",
                 lambda: " ".join([self.expression(d - 2), self.one(*OPS), self.expression(d - 2), self.one(*OPS), self.expression(d - 2)]),
                 lambda: f"{self.expression(d - 1)} is {self.one('', 'not ')}{self.one(*TESTS)}",
                 lambda: f"{self.expression(d - 1)} if {self.expression(d - 2)} else {self.expression(d - 2)}",
                 lambda: f"not {self.expression(d - 1)}", lambda: f"-{self.expression(d - 2)}",
                 lambda: f"[{self.expression(d - 1)}, {self.expression(d - 2)}]",
                 lambda: '{"a": %s, "k": %s}' % (self.expression(d - 1), self.expression(d - 2))]
        return self.r.choices(kinds, [6, 6, 8, 6, 12, 4, 4, 3, 2, 2, 2, 2])[0]()

    def tag(self, text):
        return "{%" + self.one("", "", "-", "+") + f" {text} " + self.one("", "", "-", "+") + "%}"

    def shown(self, text):
        return "{{" + self.one("", "", "-") + f" {text} " + self.one("", "", "-") + "}}"

    def text(self):
        return self.one("", "a", " b ", "\n", "\n  ", "  \n\n c", "\t", "x\n", "  ")

    def body(self, d):
        return "".join(self.statement(d - 1) for _ in range(self.r.randint(1, 3)))

    def statement(self, d):
        value = self.one("a", "b", "n", "x", "l", "ns.q", "loop.index", "a ~ b", 'x if x is defined else "u"', self.expression(1))
        if d <= 0:
            return self.text() + self.shown(value) + self.text()
        return self.r.choices([
            lambda: self.text() + self.shown(value) + self.text(),
            lambda: self.tag(f"set {self.one('a', 'b', 'n', 'l', 'x', 'ns.q')} = {value}"),
            lambda: self.tag(f"if {value}") + self.body(d) + self.one("", self.tag("elif b") + self.body(d)) + self.one(
                "", self.tag("else") + self.body(d)) + self.tag("endif"),
            lambda: self.tag(f"for {self.one('x', 'a', 'b')} in {self.one(*SEQUENCES)}{self.one('', '', ' if x is defined', ' if loop')}")
            + self.body(d) + self.one("", "", "", self.tag("continue"), self.tag("break")) + self.one(
                "", "", self.tag("else") + self.body(d)) + self.tag("endfor"),
            lambda: self.tag(f"set {self.one('a', 'b', 'x')}{self.one('', ' | upper')}") + self.body(d) + self.tag("endset"),
            lambda: self.tag("filter " + self.one("upper", "trim", 'replace("a","z")|upper')) + self.body(d) + self.tag("endfilter"),
            lambda: self.tag("macro m(x, b=a)") + self.body(d) + self.tag("endmacro") + self.shown(self.one("m(1)", "m(b=2)", "m()")),
            lambda: self.tag(f"with a = {value}") + self.body(d) + self.tag("endwith"),
            lambda: "{#" + self.one("", "-", "+") + self.text() + " c " + self.one("", "-", "+") + "#}",
            lambda: self.tag("macro c()") + "[" + self.shown("caller()") + "]" + self.tag("endmacro") + self.tag("call c()") + self.body(d)
            + self.tag("endcall"),
            lambda: self.tag("generation") + self.body(d) + self.tag("endgeneration"),
        ], [15, 15, 13, 14, 6, 5, 5, 3, 3, 3, 3])[0]()

    def template(self):
        if self.r.random() < .5:
            return "{{ " + self.expression(self.r.randint(1, 4)) + " }}"
        return "{% set ns = namespace(q=0) %}" + self.body(3)


def test_random_templates_match(tmp_path):
    make = Maker(SEED)
    request = {"messages": [{"role": "user", "content": "Hi"}], "chat_template_kwargs": VARIABLES}
    wrong, rendered = [], 0
    n = int(os.environ.get("SUPERNODE_RANDOM", "250"))
    for _ in range(n):
        template = make.template()
        want = oracle(template, request)
        if want[0] and " at 0x" in want[1]:  # an address: nothing to compare
            continue
        got = ours(folder_for(tmp_path, template), request)
        # Jinja folds a slice of a literal at compile time, and there a literal that cannot be sliced is undefined, not an error.
        refused = not got[0] and any(w in got[1] for w in ("not supported", "64 bits", "complex number", "cannot be sliced"))
        rendered += want[0] and not refused
        if not refused and (want[0] != got[0] or want[0] and want[1] != got[1]):
            wrong.append(f"{template!r}\nexpected {want}\ngot      {got}")
    assert not wrong, f"seed {SEED}: {len(wrong)} of {n} differ:\n" + "\n".join(wrong[:10])
    assert rendered > n // 3
