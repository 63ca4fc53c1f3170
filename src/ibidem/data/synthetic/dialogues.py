"""Dialogues about a function: explanation, steps, completion, docstrings, questions, bugs, and running it.

Every answer is drawn from the function itself: its code, its docstring, or what the judge saw it return.
"""

import json
import random
from collections.abc import Callable, Sequence

from ibidem.conversation import Part, Turn
from ibidem.data.synthetic import describe
from ibidem.data.synthetic.calls import Case
from ibidem.data.synthetic.functions import Function, Parameter
from ibidem.data.synthetic.mutants import Mutant
from ibidem.data.synthetic.trace import Kind, Trace, Wording, says
from ibidem.data.text.clean import block

SYSTEM_SHARE = 0.2
SYSTEM = (
    "You are a helpful assistant for programmers.",
    "You answer questions about Python code. Be brief and exact.",
    "You are a code assistant. Show code in fenced blocks.",
    "Help with code. Say only what the code shows.",
    "You are a patient tutor of programming.",
    "Answer as a careful code reviewer.",
)
RUN_TOOL = (
    'You may call a tool by writing JSON: {"name": "run_python", "arguments": {"code": "..."}} runs Python in a '
    "sandbox and returns what it prints."
)
SEARCH_TOOL = (
    'You may call a tool by writing JSON: {"name": "search", "arguments": {"query": "..."}} searches the documentation '
    "and returns passages. Cite the passages that you use."
)

_EXPLAIN = (
    "What does this function do?\n\n{code}",
    "Explain this code to me.\n\n{code}",
    "{code}\n\nCan you explain what this is for?",
    "I found this in a code base that I maintain now:\n\n{code}\n\nWhat is its purpose?",
    "Please summarize `{name}`.\n\n{code}",
    "{code}\n\nWhat does `{name}` do, in plain words?",
    "I am reviewing a change that adds this function. What is it meant to do?\n\n{code}",
    "Help me understand the following Python function.\n\n{code}",
    "Describe what happens here:\n\n{code}",
    "New to Python here. What is this function good for?\n\n{code}",
)
_EXPLAINED = (
    "`{name}` has one job: {summary}",
    "In short: {summary}",
    "{summary}",
    "The purpose of `{name}`: {summary}",
    "This is what `{name}` is for: {summary}",
)
_STEPS = (
    "Walk me through this function step by step.\n\n{code}",
    "{code}\n\nExplain `{name}` line by line.",
    "What does `{name}` do, one step after the other?\n\n{code}",
    "Let us go through this code slowly. What happens in which order?\n\n{code}",
    "{code}\n\nPlease list the steps of this function.",
    "I have to port this to another language. Write down its steps.\n\n{code}",
    "Think step by step: how does `{name}` arrive at its result?\n\n{code}",
)
_STEPS_OPEN = (
    "Step by step:",
    "These are the steps of `{name}`:",
    "`{name}` works like this:",
    "In order:",
    "Here is what happens:",
)
_STEPS_CLOSE = ("Taken together: {summary}", "So, in one sentence: {summary}", "The result: {summary}", "")
_COMPLETE = (
    "Complete this function.\n\n{code}",
    "{code}\n\nFill in the body.",
    "Please finish the implementation:\n\n{code}",
    "I have only the signature and the docstring so far. Write the rest.\n\n{code}",
    "Implement `{name}` as its docstring says.\n\n{code}",
    "The body of `{name}` is missing:\n\n{code}\n\nWrite it, please.",
)
_WRITE = (
    "Write a Python function `{signature}` with this behavior: {summary}",
    "I need a function `{signature}`. What it should do: {summary}",
    "Please write `{signature}` in Python. {summary}",
    "Can you code this for me? `{signature}`: {summary}",
    "Task: {summary} Name the function `{name}`; its signature is `{signature}`.",
    "Implement the following in Python.\n\n{summary}\n\nSignature: `{signature}`",
)
_COMPLETED = (
    "Here it is:",
    "This does it:",
    "A version that does what you describe:",
    "Sure:",
    "Here is `{name}`:",
    "",
)
_DOCSTRING = (
    "Write a docstring for this function.\n\n{code}",
    "{code}\n\nPlease document `{name}`.",
    "This function has no docstring. Add one.\n\n{code}",
    "Our linter wants a docstring here:\n\n{code}",
    "Document the following function without changing its code.\n\n{code}",
    "{code}\n\nWhat would be a good docstring for it?",
)
_DOCUMENTED = ("With a docstring:", "Here is the function with a docstring; the code is unchanged:", "Documented:", "")
_ASK_PARAMETER = (
    "What is the parameter `{parameter}` of `{name}` for?\n\n{code}",
    "{code}\n\nWhat do I pass as `{parameter}`?",
    "In the function below, what does `{parameter}` mean?\n\n{code}",
    "I do not understand `{parameter}` here:\n\n{code}",
)
_ASK_RETURN = (
    "What does `{name}` return?\n\n{code}",
    "{code}\n\nWhat is the return value?",
    "I want to call `{name}`. What do I get back?\n\n{code}",
)
_ASK_SUMMARY_NEXT = ("And what is the function for?", "Thanks. What does the whole function do?", "And in general?")
_ASK_DEFAULT_NEXT = ("Do I have to pass `{parameter}`?", "Is `{parameter}` optional?", "Can I leave out `{parameter}`?")
_FIX = (
    "This function has a bug:\n\n{code}\n\nFor example, {failure} Can you fix it?",
    "{failure}\n\nHere is the code:\n\n{code}\n\nWhat is wrong?",
    "Please debug `{name}`. {failure}\n\n{code}",
    "A test of `{name}` fails. {failure}\n\n{code}\n\nFind the mistake, please.",
    "{code}\n\nThis is not right: {failure} Where is the error?",
    "I must have broken `{name}` when I edited it. {failure}\n\n{code}",
    "The docstring promises one thing and the code does another. {failure}\n\n{code}",
)
_WRONG = (
    "`{name}({arguments})` returns `{wrong}`, but should return `{right}`.",
    "I expected `{right}` from `{name}({arguments})` and got `{wrong}`.",
    "`{name}({arguments})` gives `{wrong}`; the right answer is `{right}`.",
)
_RAISES = (
    "`{name}({arguments})` raises an exception, but should return `{right}`.",
    "I expected `{right}` from `{name}({arguments})`, but it fails with an exception.",
)
_FAULT: dict[str, tuple[str, ...]] = {
    "compare": ("The comparison is wrong", "The condition compares the wrong way"),
    "arithmetic": ("The calculation uses the wrong operator", "An operator is wrong"),
    "constant": ("A constant is wrong", "The value of a constant is off"),
    "boundary": ("There is an off-by-one error", "A boundary is off by one"),
    "logic": ("The conditions are combined the wrong way", "`and` and `or` are mixed up"),
    "negation": ("A `not` is missing", "The condition is the opposite of what is meant"),
    "arguments": ("Two arguments are in the wrong order", "The arguments of a call are swapped"),
    "result": ("The returned value loses its first element", "The result is cut before it is returned"),
}
_FIXED = (
    "{fault}: `{after}` should be `{before}`.\n\n{code}",
    "{fault}. It says `{after}`, where `{before}` is meant:\n\n{code}",
    "Found it. {fault}: replace `{after}` by `{before}`.\n\n{code}\n\n`{name}({arguments})` now returns `{right}`.",
    "{code}\n\n{fault}: I changed `{after}` to `{before}`.",
)
_RUN = (
    "What does `{call}` return?\n\n{code}",
    "{code}\n\nPlease run `{call}` and tell me the result.",
    "I cannot run code here. What is the value of `{call}`?\n\n{code}",
    "Check for me what `{call}` gives:\n\n{code}",
    "{code}\n\nTry it with `{call}`.",
)
_RAN = ("It returns `{result}`.", "`{call}` returns `{result}`.", "The result is `{result}`.", "I ran it: `{result}`.")
_SEARCH = (
    "What does the parameter `{parameter}` of `{name}` mean?",
    "In our library, what is `{parameter}` in `{name}`?",
    "Look up what I have to pass to `{name}` as `{parameter}`.",
    "I want to call `{name}`. What is `{parameter}`?",
)
_SEARCH_PURPOSE = (
    "What is `{name}` for? Please look it up.",
    "Is there documentation of `{name}`? What does it say?",
    "What does our documentation say about `{name}`?",
)
_NOT_FOUND = (
    "The documentation that I found does not say what `{parameter}` is; I would have to guess.",
    "I found `{name}`, but its documentation does not mention `{parameter}`.",
    "That is not documented: the passage about `{name}` says nothing of `{parameter}`.",
)

Maker = Callable[[Function, random.Random], Trace | None]


def explain(function: Function, rng: random.Random) -> Trace | None:
    """Explain a function without its docstring: purpose, parameters, and what is worth knowing."""
    say = Wording(rng)
    asked = say(_EXPLAIN).format(code=block(function.bare), name=function.name)
    lines = [say(_EXPLAINED).format(name=function.name, summary=function.summary)]
    if described := list(map(_described, function.parameters)):
        lines.append("\n".join(["Its parameters:", *(f"- {line}" for line in described)]))
    if function.returns:
        lines.append(f"It returns: {_as_sentence(function.returns)}")
    lines += [" ".join(remarks)] if (remarks := describe.remarks(function.bare)) else []
    return _trace("explain", function, say, [asked, "\n\n".join(lines)])


def steps(function: Function, rng: random.Random) -> Trace | None:
    """Explain a function statement by statement; None if it has too many."""
    listed = describe.steps(function.bare)
    if listed is None:
        return None
    say = Wording(rng)
    asked = say(_STEPS).format(code=block(function.bare), name=function.name)
    opening = say(_STEPS_OPEN).format(name=function.name)
    closing = say(_STEPS_CLOSE).format(summary=function.summary)
    answer = "\n\n".join(filter(None, [opening, "\n".join(listed), closing]))
    return _trace("steps", function, say, [asked, answer])


def complete(function: Function, rng: random.Random) -> Trace | None:
    """Complete a signature with its docstring."""
    say = Wording(rng)
    head = function.program[: function.program.index(function.code) + len(_head(function))]
    asked = say(_COMPLETE).format(code=block(head), name=function.name)
    opening = say(_COMPLETED).format(name=function.name)
    return _trace("complete", function, say, [asked, _joined(opening, block(function.program))])


def write(function: Function, rng: random.Random) -> Trace | None:
    """Write a function from its description."""
    say = Wording(rng)
    facts = {"name": function.name, "signature": _signature(function), "summary": function.summary}
    asked = say(_WRITE).format(**facts)
    details = [f"`{each.name}`: {_as_sentence(each.meaning)}" for each in function.parameters if each.meaning]
    details += [f"It returns: {_as_sentence(function.returns)}"] if function.returns else []
    opening = say(_COMPLETED).format(name=function.name)
    return _trace(
        "write", function, say, [_joined(asked, "\n".join(details)), _joined(opening, block(function.program))]
    )


def docstring(function: Function, rng: random.Random) -> Trace | None:
    """Write the docstring of a function."""
    say = Wording(rng)
    asked = say(_DOCSTRING).format(code=block(function.bare), name=function.name)
    return _trace("docstring", function, say, [asked, _joined(say(_DOCUMENTED), block(function.code))])


def question(function: Function, rng: random.Random) -> Trace | None:
    """Answer questions about parameters and the returned value, in one or two rounds; None if nothing is documented."""
    say = Wording(rng)
    documented = [each for each in function.parameters if each.meaning]
    code = block(function.bare)
    if documented and (not function.returns or rng.random() < 0.7):
        parameter = rng.choice(documented)
        said = [say(_ASK_PARAMETER).format(name=function.name, parameter=parameter.name, code=code)]
        said.append(f"`{parameter.name}`: {_as_sentence(parameter.meaning)}")
        if rng.random() < 0.5:
            said += [say(_ASK_DEFAULT_NEXT).format(parameter=parameter.name), _optional(parameter)]
            return _trace("question", function, say, said)
    elif function.returns:
        said = [say(_ASK_RETURN).format(name=function.name, code=code), _as_sentence(function.returns)]
    else:
        return None
    if rng.random() < 0.5:
        said += [say(_ASK_SUMMARY_NEXT), function.summary]
    return _trace("question", function, say, said)


def fix(function: Function, mutant: Mutant, case: Case, wrong: str | None, rng: random.Random) -> Trace:
    """Fix a mutant.

    Args:
        function: the original.
        mutant: the function with the fault.
        case: a call whose result differs, with the original's result.
        wrong: what the mutant returns for it; None if it raises an exception.
        rng: draws the wordings.
    """
    say = Wording(rng)
    facts = {"name": function.name, "arguments": case.arguments, "right": case.result, "wrong": wrong}
    failure = say(_RAISES if wrong is None else _WRONG).format(**facts)
    asked = say(_FIX).format(code=block(function.after_setup(mutant.code)), failure=failure, name=function.name)
    fault = say(_FAULT[mutant.operator])
    changed = {"before": _short(mutant.before), "after": _short(mutant.after)}
    code = block(function.after_setup(mutant.original))
    answer = say(_FIXED).format(fault=fault, code=code, **changed, **facts)
    return _trace("fix", function, say, [asked, answer])._replace(mutant=mutant.operator)


def run(function: Function, case: Case, rng: random.Random) -> Trace:
    """Run a function with a tool, and report what it returned."""
    say = Wording(rng)
    call = f"{function.name}({case.arguments})"
    asked = say(_RUN).format(call=call, code=block(function.program))
    arguments = {"code": f"{function.program}\n\nprint(repr({call}))"}
    called = Part("tool_call", json.dumps({"name": "run_python", "arguments": arguments}, ensure_ascii=False))
    turns = (
        Turn.of("system", f"{say(SYSTEM)} {RUN_TOOL}"),
        Turn.of("user", asked),
        says(called),
        Turn.of("tool", case.result),
        says(say(_RAN).format(call=call, result=case.result)),
    )
    return Trace("run", turns, say.template, function.source, function.name)


def search(function: Function, others: Sequence[Function], rng: random.Random) -> Trace | None:
    """Look a function up with a tool, and answer from the passages with a citation, or say that they do not."""
    say = Wording(rng)
    documented = [each for each in function.parameters if each.meaning]
    silent = [each for each in function.parameters if each.name not in function.docstring]
    if documented and rng.random() < 0.7:
        parameter = rng.choice(documented)
        asked, answer = say(_SEARCH), f"`{parameter.name}`: {_as_sentence(parameter.meaning)}"
    elif silent and rng.random() < 0.4:
        parameter = rng.choice(silent)
        asked, answer = say(_SEARCH), ""
    else:
        parameter = Parameter("", "", "", "")
        asked, answer = say(_SEARCH_PURPOSE), function.summary
    facts = {"name": function.name, "parameter": parameter.name}
    found = [f"{each.name}{_tail(each)}\n{each.docstring}" for each in (function, *others)]
    order = list(range(len(found)))
    rng.shuffle(order)
    place = order.index(0) + 1
    query = {"query": f"{function.name} {parameter.name}".strip()}
    called = Part("tool_call", json.dumps({"name": "search", "arguments": query}, ensure_ascii=False))
    closing = says(answer, Part("cite", str(place))) if answer else says(say(_NOT_FOUND).format(**facts))
    turns = (
        Turn.of("system", f"{say(SYSTEM)} {SEARCH_TOOL}"),
        Turn.of("user", asked.format(**facts)),
        says(called),
        Turn("tool", tuple(Part("passage", found[number]) for number in order)),
        closing,
    )
    return Trace("search", turns, say.template, function.source, function.name)


MAKERS: dict[Kind, Maker] = {
    "explain": explain,
    "steps": steps,
    "complete": complete,
    "write": write,
    "docstring": docstring,
    "question": question,
}
"""Makers of traces that need no more than the function."""


def _trace(kind: Kind, function: Function, say: Wording, said: Sequence[str]) -> Trace:
    turns = [Turn.of("assistant" if number % 2 else "user", text) for number, text in enumerate(said)]
    if say.rng.random() < SYSTEM_SHARE:
        turns = [Turn.of("system", say(SYSTEM)), *turns]
    return Trace(kind, tuple(turns), say.template, function.source, function.name)


def _head(function: Function) -> str:
    """Return the code of a function up to the end of its docstring."""
    lines = function.code.splitlines()
    bare = function.bare.splitlines()
    shared = 0
    while shared < len(bare) and bare[-1 - shared] == lines[-1 - shared] and bare[-1 - shared] != bare[0]:
        shared += 1
    return "\n".join(lines[: len(lines) - shared]).rstrip()


def _signature(function: Function) -> str:
    return function.name + _tail(function)


def _tail(function: Function) -> str:
    return f"({', '.join(map(_written, function.parameters))})"


def _written(parameter: Parameter) -> str:
    annotated = f"{parameter.name}: {parameter.annotation}" if parameter.annotation else parameter.name
    if not parameter.default:
        return annotated
    return f"{annotated} = {parameter.default}" if parameter.annotation else f"{annotated}={parameter.default}"


def _described(parameter: Parameter) -> str:
    facts = [f"`{parameter.name}`"]
    facts += [f"of type `{parameter.annotation}`"] if parameter.annotation else []
    facts += [f"`{parameter.default}` by default"] if parameter.default else []
    meaning = f": {_as_sentence(parameter.meaning)}" if parameter.meaning else ""
    return ", ".join(facts) + meaning


def _optional(parameter: Parameter) -> str:
    if parameter.default:
        return f"You can leave `{parameter.name}` out; it is then `{parameter.default}`."
    return f"`{parameter.name}` has no default, so it has to be passed."


def _as_sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", "`")) else f"{text.rstrip(':;,')}."


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _short(code: str) -> str:
    return " ".join(code.split())
