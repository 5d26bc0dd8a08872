"""The rules that there are: those of the configuration, those made over REST, and what an operator has switched.

A name that the configuration uses belongs to it. Switches (enabled, snoozed) are kept beside the settings, for one camera
or for all, and survive restarts. Not thread-safe: the engine holds its lock. Reads no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from agent.alerts.store import ALERTS_FILE, EVERY_CAMERA, AlertStore, Switch
from agent.errors import RuleConflict, UnknownRule
from agent.settings.rules import RuleSettings
from memory.errors import StorageError

MAX_RULES = 64  # made over REST: each costs a cosine per frame and may call the language model

Source = Literal["config", "api"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    settings: RuleSettings
    source: Source


@dataclass(frozen=True, slots=True)
class RuleView:
    """The current state of one rule at one camera, as MQTT shows it."""

    rule: str
    camera: str
    on: bool  # an alert is active
    enabled: bool
    snoozed_until: float  # unix seconds; 0: not snoozed


class Rules:
    """See the module."""

    def __init__(self, alert_store: AlertStore, configured: Mapping[str, RuleSettings]) -> None:
        """Raises StorageError when a kept rule cannot be read."""
        self._alert_store = alert_store
        self._rules = {name: Rule(name, _kept(name, given), "api") for name, given in alert_store.rules().items()}
        self._rules |= {name: Rule(name, settings, "config") for name, settings in configured.items()}
        self._switches = alert_store.switches()

    def all(self) -> list[Rule]:
        """By name."""
        return [self._rules[name] for name in sorted(self._rules)]

    def named(self, name: str) -> Rule:
        """Raises UnknownRule."""
        if name not in self._rules:
            raise UnknownRule(name)
        return self._rules[name]

    def put(self, name: str, settings: RuleSettings, *, new: bool = False, switched: bool = False) -> Rule:
        """Keep a rule; `new`: there must be none of that name yet. `switched`: what was switched by hand stays so.

        Raises RuleConflict.
        """
        found = self._rules.get(name)
        if found is not None and found.source == "config":
            raise RuleConflict(f"The rule '{name}' stands in the configuration file: change it there.")
        if found is not None and new:
            raise RuleConflict(f"There is a rule '{name}' already: choose another name, or PUT to replace it.")
        num_made = sum(rule.source == "api" for rule in self._rules.values())
        if found is None and num_made >= MAX_RULES:
            raise RuleConflict(f"There are {num_made} rules, as many as are allowed: remove one first.")
        self._alert_store.put_rule(name, settings.model_dump(mode="json"))
        self._rules[name] = Rule(name, settings, "api")
        if not switched:
            self._set(name, None, enabled=None)
        return self._rules[name]

    def remove(self, name: str) -> None:
        """Raises UnknownRule, or RuleConflict for a rule of the configuration."""
        if self.named(name).source == "config":
            raise RuleConflict(f"The rule '{name}' stands in the configuration file: remove it there.")
        self._alert_store.remove_rule(name)
        del self._rules[name]
        self._switches = {key: switch for key, switch in self._switches.items() if key[0] != name}

    # --- switches ---

    def is_enabled(self, name: str, camera: str = EVERY_CAMERA) -> bool:
        """In force at this camera: its own switch, else that for all, else the settings."""
        for place in (camera, EVERY_CAMERA):
            enabled = self._switch(name, place).enabled
            if enabled is not None:
                return enabled
        return self.named(name).settings.enabled

    def snoozed_until(self, name: str, camera: str = EVERY_CAMERA) -> float:
        """Unix seconds; 0: not snoozed. The later of what the operator set and the settings' own."""
        for place in (camera, EVERY_CAMERA):
            until = self._switch(name, place).snoozed_until
            if until is not None:
                return max(until, self.named(name).settings.snooze or 0.0)
        return self.named(name).settings.snooze or 0.0

    def switch(self, name: str, camera: str | None, enabled: bool) -> None:
        """Set it at one camera; None: at all, whatever was set for single ones."""
        self._set(name, camera, enabled=enabled)

    def snooze(self, name: str, camera: str | None, until: float) -> None:
        """No alert begins before `until` (unix seconds); None: at no camera."""
        self._set(name, camera, snoozed_until=until)

    def _switch(self, name: str, camera: str) -> Switch:
        return self._switches.get((name, camera), Switch())

    def _set(self, name: str, camera: str | None, **change: Any) -> None:
        self.named(name)
        changed: dict[tuple[str, str], Switch] = {}
        if camera is None:
            nothing = dict.fromkeys(change)
            changed = {key: replace(switch, **nothing) for key, switch in self._switches.items() if key[0] == name}
        place = (name, camera or EVERY_CAMERA)
        changed[place] = replace(self._switch(*place), **change)
        self._alert_store.put_switches(changed)
        self._switches |= changed


def _kept(name: str, given: Mapping[str, Any]) -> RuleSettings:
    try:
        return RuleSettings.model_validate(given)
    except ValidationError as error:
        raise StorageError(f"the rule '{name}' in {ALERTS_FILE} cannot be read (another version?): {error}") from error
