"""The C++ code of a compiled loop, without what it need not do again at every step.

torch makes a handle of each argument at every step, and memory for each temporary. All shapes are
known, so both are made once, before the loop: of an outer step of microseconds they are half.
"""

import re

LOOP = re.compile(r"(?P<indent> *)while \(1\) \{\n.*?\n(?P=indent)\}\n", re.DOTALL)
SIZES = re.compile(r"^\s*static constexpr int64_t [^;]*;\n", re.MULTILINE)
HANDLE = re.compile(
    r"^\s*AtenTensorHandle (?P<name>\w+)_handle;\n"
    r"\s*AOTI_TORCH_ERROR_CODE_CHECK\("
    r"(?:aoti_torch_assign_tensors_out\((?P<source>\w+), &(?P=name)_handle\)"
    r"|aoti_torch_empty_strided\([^()]*&(?P=name)_handle\))\);\n"
    r"\s*RAIIAtenTensorHandle (?P=name)\((?P=name)_handle\);\n",
    re.MULTILINE,
)
"""Another name for the tensor `source`, or, without it, memory for a temporary."""

MADE = r"wrap_with_raii_handle_if_needed\(reinterpret_tensor_wrapper\((?P<of>\w+), [^()]*\)\)"
NAMED_VIEW = re.compile(rf"^\s*auto (?P<name>\w+) = {MADE};[^\n]*\n", re.MULTILINE)
VIEW = re.compile(rf"(?<!std::move\(){MADE}(?=[,)])")
MOVED = re.compile(r"std::move\((\w+)\)")
REPLACED = re.compile(r"^\s*(\w+) = ", re.MULTILINE)
RESET = re.compile(r"\b(\w+)\.reset\(\);")


def once(code: str) -> str:
    """The same code, whose loops make handles, memory and views before their first step.

    Args:
        code: Of torch's C++ wrapper, for shapes that are all known and for temporaries none of
            which takes over the memory of another.
    """
    return LOOP.sub(lambda found: _before_it(found[0]), code)


def _before_it(loop: str) -> str:
    changing = {*MOVED.findall(loop), *REPLACED.findall(loop)}
    kept: set[str] = set()  # names of what is the same at every step
    another_name: set[str] = set()  # other names of what changes
    before: list[str] = []
    views: dict[str, str] = {}

    def sizes(found: re.Match[str]) -> str:
        before.append(found[0])
        return ""

    def handle(found: re.Match[str]) -> str:
        name, source = found["name"], found["source"]
        if name in changing:
            return found[0]
        another = f"auto& {name} = {source};\n"
        if source in changing:
            another_name.add(name)
            return another
        kept.add(name)
        before.append(another if source else found[0])
        return ""

    def named_view(found: re.Match[str]) -> str:
        if found["of"] not in kept or found["name"] in changing:
            return found[0]
        kept.add(found["name"])
        before.append(found[0])
        return ""

    def view(found: re.Match[str]) -> str:
        if found["of"] not in kept:
            return found[0]
        return views.setdefault(found[0], f"{found['of']}_view{len(views)}")

    for pattern, replacement in ((SIZES, sizes), (HANDLE, handle), (NAMED_VIEW, named_view)):
        loop = pattern.sub(replacement, loop)
    loop = RESET.sub(lambda x: "" if x[1] in kept | another_name else x[0], loop)
    loop = VIEW.sub(view, loop)
    before += [f"auto {name} = {made};\n" for made, name in views.items()]
    return "".join(before) + loop
