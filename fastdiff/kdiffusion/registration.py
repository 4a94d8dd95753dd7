"""register: fastdiff's samplers in a host's tables. ComfyUI, Forge and A1111 look samplers up by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableSequence, MutableSet
from functools import partial
from types import ModuleType

from . import cfg_pp, sa_solver, samplers, sde, steps
from .host import TREE, standing_in_for

FUNCTIONS = {
    name: function
    for module in (samplers, cfg_pp, sa_solver, sde, steps)
    for name, function in vars(module).items()
    if name.startswith("sample_")
}
TABLES = ("KSAMPLER_NAMES", "SAMPLER_NAMES")
ONE_STEP_MORE = "DISCARD_PENULTIMATE_SIGMA_SAMPLERS"  # in ComfyUI's KSampler: laid out with a step more, less one
APART = {  # names that ComfyUI does not look up among its functions, and what its module uni_pc has for them
    "uni_pc": ("sample_unipc", samplers.unipc_of_variant),
    "uni_pc_bh2": ("sample_unipc_bh2", samplers.sample_uni_pc_bh2),
}
OWN_WAY = "the host does not look it up among its functions"
LEFT = {"ddim": "the host runs sample_euler for it"}
_ABSENT = object()


class _Function:
    """A function in a host's module: fastdiff's while a registration lasts, then what was there before.

    Code that kept fastdiff's function, or wrapped it, gets the host's own again after the last undo.
    """

    def __init__(self, module: ModuleType, name: str, function: Callable, host: ModuleType, seed_compat: bool) -> None:
        self.module, self.name, self.seed_compat, self.owners = module, name, seed_compat, 0
        self.before = vars(module).get(name, _ABSENT)

        @functools.wraps(function)
        def sample(*args: object, **kwargs: object) -> object:
            if not self.owners and self.before is not _ABSENT:
                return self.before(*args, **kwargs)
            with standing_in_for(host, seed_compat):
                return function(*args, **kwargs)

        self.sample = sample
        setattr(module, name, sample)

    def stands(self) -> bool:
        return vars(self.module).get(self.name) is self.sample

    def remove(self) -> None:
        if not self.stands():
            return
        if self.before is _ABSENT:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.before)


class _Entry:
    """A name added to a host's list or set."""

    def __init__(self, table: MutableSequence[str] | MutableSet[str], name: str) -> None:
        self.table, self.name, self.owners = table, name, 0
        (table.add if isinstance(table, MutableSet) else table.append)(name)

    def stands(self) -> bool:
        return self.name in self.table

    def remove(self) -> None:
        if self.stands():
            self.table.remove(self.name)


_CHANGES: dict[tuple[int, str], _Function | _Entry] = {}  # in force, by the host's module or table and the name


class Registration:
    """What `register` changed: undo() restores it, printing lists it.

    left: names of the host's lists that were left alone, with the reason.
    If a host was registered several times, the last undo restores it, in whatever order they come.
    """

    def __init__(self) -> None:
        self.left: dict[str, str] = {}
        self._changes: list[_Function | _Entry] = []

    def _take(self, holder: object, name: str, make: Callable[[], _Function | _Entry]) -> None:
        change = _CHANGES.get((id(holder), name))
        if change is None or not change.stands():
            change = _CHANGES[id(holder), name] = make()
        change.owners += 1
        self._changes.append(change)

    def serves(self, name: str) -> bool:
        """Whether a name of the host's lists runs one of fastdiff's functions."""
        found = {change.name for change in self._changes if isinstance(change, _Function)}
        return f"sample_{name}" in found or APART.get(name, ("",))[0] in found

    def undo(self) -> None:
        """Restore every function that was replaced and remove what was added; a second call does nothing."""
        for change in reversed(self._changes):
            change.owners -= 1
            if not change.owners:
                change.remove()
        for key in [key for key, change in _CHANGES.items() if not change.owners]:
            del _CHANGES[key]
        self._changes = []

    def __repr__(self) -> str:
        functions = [change for change in self._changes if isinstance(change, _Function)]
        replaced = [change.name for change in functions if change.before is not _ABSENT]
        added = [change.name for change in functions if change.before is _ABSENT]
        left = [f"{name} ({reason})" for name, reason in self.left.items()]
        parts = {"replaced": replaced, "added": added, "left alone": left}
        return "fastdiff samplers: " + "; ".join(
            f"{what} {', '.join(names) or 'none'}" for what, names in parts.items()
        )


def register(*modules: ModuleType, prefix: str = "", seed_compat: bool = False) -> Registration:
    """Install fastdiff's samplers in a host's modules; returns a handle that undoes it.

    A module with sample_* functions (k_diffusion.sampling, comfy.k_diffusion.sampling) gets fastdiff's as
    sample_<prefix><name>: without a prefix they replace its own, with one they stand beside them. A module with a list
    KSAMPLER_NAMES or SAMPLER_NAMES (comfy.samplers) gets the names it lacks. ComfyUI's "uni_pc" and "uni_pc_bh2" are
    replaced in the module that comfy.samplers calls. Names that stay the host's are in the handle's `left`.
    Installed functions draw the host's noise (`host`) and recognise its rectified-flow models (`flow`). Functions that
    the host did not have all take sigmas.
    seed_compat: the SDE samplers too draw from the host's own Brownian tree, so that a seed gives the picture that it
    gives without fastdiff, to rounding; it costs what the host's tree costs.
    Raises ValueError for a module with neither functions nor a list, if none has functions, for one without a
    Brownian tree under seed_compat, and for a name that is already registered with another seed_compat.
    """
    homes = _homes(modules, seed_compat)
    _check_standing(homes, prefix, seed_compat)
    tables = [table for module in modules for table in _tables(module)]
    done = Registration()
    for full_name, function in FUNCTIONS.items():
        base = full_name.removeprefix("sample_")
        name = f"{prefix}{base}"
        for module in homes:
            if f"sample_{name}" in vars(module):
                _put(done, module, name, function, seed_compat)
            elif not any(name in table for table in tables):
                sample = steps.on_sigmas(full_name) if full_name in steps.ON_SIGMA_RANGE else function
                _put(done, module, name, sample, seed_compat)
        if any(f"sample_{name}" in vars(module) for module in homes):
            for table in tables:
                _list(done, table, name)
            for module in modules:
                laid_out = getattr(getattr(module, "KSampler", None), ONE_STEP_MORE, ())
                if base in laid_out:
                    _list(done, laid_out, name)
    if not prefix:
        _replace_apart(done, modules, homes[0])
        names = dict.fromkeys(name for table in tables for name in table)
        done.left = {name: LEFT.get(name, OWN_WAY) for name in names if not done.serves(name)}
    return done


def _homes(modules: tuple[ModuleType, ...], seed_compat: bool) -> list[ModuleType]:
    """The modules whose functions are looked up."""
    homes = [module for module in modules if any(name.startswith("sample_") for name in vars(module))]
    for module in modules:
        if module not in homes and not _tables(module):
            raise ValueError(f"modules: {module.__name__} has neither sample_* functions nor a list of sampler names")
    if not homes:
        raise ValueError("modules: expected one with sample_* functions too, in which the names are looked up")
    for module in homes:
        if seed_compat and not hasattr(module, TREE):
            raise ValueError(f"seed_compat: {module.__name__} has no {TREE} to draw from")
    return homes


def _check_standing(homes: list[ModuleType], prefix: str, seed_compat: bool) -> None:
    for module in homes:
        for full_name in FUNCTIONS:
            name = f"sample_{prefix}{full_name.removeprefix('sample_')}"
            change = _CHANGES.get((id(module), name))
            if isinstance(change, _Function) and change.stands() and change.seed_compat != seed_compat:
                raise ValueError(f"seed_compat: {name} is registered with {change.seed_compat}; undo that first")


def _replace_apart(done: Registration, modules: tuple[ModuleType, ...], host: ModuleType) -> None:
    for module in modules:
        for attribute, function in APART.values():
            apart = vars(module).get("uni_pc")
            if isinstance(apart, ModuleType) and attribute in vars(apart):
                done._take(apart, attribute, partial(_Function, apart, attribute, function, host, False))


def _tables(module: ModuleType) -> list[list[str]]:
    return [vars(module)[name] for name in TABLES if isinstance(vars(module).get(name), list)]


def _put(done: Registration, module: ModuleType, name: str, function: Callable, seed_compat: bool) -> None:
    name = f"sample_{name}"
    done._take(module, name, lambda: _Function(module, name, function, module, seed_compat))


def _list(done: Registration, table: MutableSequence[str] | MutableSet[str], name: str) -> None:
    if name not in table or (id(table), name) in _CHANGES:
        done._take(table, name, lambda: _Entry(table, name))
