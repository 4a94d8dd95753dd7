"""Into a host's tables: ComfyUI's, Forge's and A1111's interfaces look samplers up by name."""

from __future__ import annotations

from types import ModuleType

from . import samplers, steps

FUNCTIONS = {
    name: function
    for module in (samplers, steps)
    for name, function in vars(module).items()
    if name.startswith("sample_")
}
TABLES = ("KSAMPLER_NAMES", "SAMPLER_NAMES")
_ABSENT = object()


class Registration:
    """What `register` changed. undo() puts everything back; printing it says what it is."""

    def __init__(self) -> None:
        self.functions: list[tuple[ModuleType, str, object]] = []  # with what stood there before
        self.names: list[tuple[list[str], str]] = []

    def undo(self) -> None:
        """Put back every function that was replaced, and take out what was added."""
        for module, name, before in reversed(self.functions):
            if before is _ABSENT:
                delattr(module, name)
            else:
                setattr(module, name, before)
        for table, name in reversed(self.names):
            table.remove(name)
        self.functions, self.names = [], []

    def __repr__(self) -> str:
        replaced = [name for _, name, before in self.functions if before is not _ABSENT]
        added = [name for _, name, before in self.functions if before is _ABSENT]
        return f"fastdiff samplers: replaced {', '.join(replaced) or 'none'}; added {', '.join(added) or 'none'}"


def register(*modules: ModuleType, prefix: str = "") -> Registration:
    """Put fastdiff's samplers into a host's modules; returns the handle that undoes it.

    A module with sample_* functions (k_diffusion.sampling, comfy.k_diffusion.sampling) gets all of fastdiff's as
    sample_<prefix><name>: in place of its own without a prefix, beside them with one. A module with a list
    KSAMPLER_NAMES or SAMPLER_NAMES (comfy.samplers) gets the names that are not in it.
    Raises ValueError for a module that has neither.
    """
    done = Registration()
    for module in modules:
        tables = [vars(module)[name] for name in TABLES if isinstance(vars(module).get(name), list)]
        holds_functions = any(name.startswith("sample_") for name in vars(module))
        if not tables and not holds_functions:
            done.undo()
            raise ValueError(f"modules: {module.__name__} has neither sample_* functions nor a list of sampler names")
        for full_name, function in FUNCTIONS.items():
            name = prefix + full_name.removeprefix("sample_")
            if holds_functions:
                before = vars(module).get(f"sample_{name}", _ABSENT)
                done.functions.append((module, f"sample_{name}", before))
                setattr(module, f"sample_{name}", function)
            for table in tables:
                if name not in table:
                    table.append(name)
                    done.names.append((table, name))
    return done
