"""The rules: those of the configuration and those made over REST, with the switches that an operator has set.

A rule of the configuration replaces one made over REST with the same name. A switch is what an operator set for a rule
at one camera or at all of them: enabled or disabled, and snoozed until when. Switches are stored apart from the rule
and survive restarts. Not thread-safe: the watcher holds its lock. Reads no clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from agent.alerts.store import ALERTS_FILE, EVERY_CAMERA, AlertStore, Switch
from agent.errors import RuleConflict, UnknownRule
from agent.settings.rules import RuleSettings
from memory.errors import StorageError

MAX_RULES = 64  # limit of rules made over REST, as each costs time per frame and may call the language model

Source = Literal["config", "api"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A standing question with its name and origin."""

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
    """All rules and switches, held in memory and in the alert store."""

    def __init__(self, alert_store: AlertStore, configured: Mapping[str, RuleSettings]) -> None:
        """Load the rules of the alert store. Raises StorageError when one cannot be read."""
        self._alert_store = alert_store
        self._rules = {name: Rule(name, _kept(name, given), "api") for name, given in alert_store.rules().items()}
        self._rules |= {name: Rule(name, settings, "config") for name, settings in configured.items()}
        self._switches = alert_store.switches()

    def all(self) -> list[Rule]:
        """Return all rules, sorted by name."""
        return [self._rules[name] for name in sorted(self._rules)]

    def named(self, name: str) -> Rule:
        """Return the rule called `name`. Raises UnknownRule if there is none."""
        if name not in self._rules:
            raise UnknownRule(name)
        return self._rules[name]

    def put(self, name: str, settings: RuleSettings, *, new: bool = False, switched: bool = False) -> Rule:
        """Create or replace a rule made over REST, and return it.

        new: refuse a name that exists. switched: True keeps the operator's switches, which enable or disable the rule
        whatever `settings` say; False removes them, so that `settings` decide. Raises RuleConflict for a refused name,
        for a rule of the configuration and when there are MAX_RULES rules already; raises StorageError.
        """
        found = self._rules.get(name)
        if found is not None and found.source == "config":
            raise RuleConflict(f"The rule '{name}' is defined in the configuration file: change it there.")
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
        """Delete a rule with its switches. Raises UnknownRule, or RuleConflict for a rule of the configuration."""
        if self.named(name).source == "config":
            raise RuleConflict(f"The rule '{name}' is defined in the configuration file: remove it there.")
        self._alert_store.remove_rule(name)
        del self._rules[name]
        self._switches = {key: switch for key, switch in self._switches.items() if key[0] != name}

    def blind(self, name: str, cameras: Iterable[str]) -> str | None:
        """Return why an enabled rule watches nothing, as text for the operator; None: it watches a camera.

        cameras: all cameras that exist.
        """
        rule = self._rules.get(name)
        if rule is None or not rule.settings.cameras or not self.is_enabled(name):
            return None
        if any(rule.settings.watches(camera) for camera in cameras):
            return None
        return f"it watches nothing: there is no camera {' or '.join(rule.settings.cameras)} (cameras of the rule)"

    # --- switches ---

    def is_enabled(self, name: str, camera: str = EVERY_CAMERA) -> bool:
        """Return whether the rule is enabled at this camera.

        The camera's own switch decides; if there is none, the switch for all cameras; if there is none, the settings.
        """
        for place in (camera, EVERY_CAMERA):
            enabled = self._switch(name, place).enabled
            if enabled is not None:
                return enabled
        return self.named(name).settings.enabled

    def snoozed_until(self, name: str, camera: str = EVERY_CAMERA) -> float:
        """Return the end of the snooze in unix seconds; 0: not snoozed. Of switch and settings, the later end counts."""
        for place in (camera, EVERY_CAMERA):
            until = self._switch(name, place).snoozed_until
            if until is not None:
                return max(until, self.named(name).settings.snooze or 0.0)
        return self.named(name).settings.snooze or 0.0

    def switch(self, name: str, camera: str | None, enabled: bool) -> None:
        """Enable or disable the rule at one camera, or at all (None), which also removes the switches of single cameras."""
        self._set(name, camera, enabled=enabled)

    def snooze(self, name: str, camera: str | None, until: float) -> None:
        """Snooze the rule at one camera, or at all (None): no alert begins before `until` (unix seconds)."""
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


def _kept(name: str, given: Mapping[str, object]) -> RuleSettings:
    try:
        return RuleSettings.model_validate(given)
    except ValidationError as error:
        raise StorageError(f"the rule '{name}' in {ALERTS_FILE} cannot be read (another version?): {error}") from error
