"""axe-core in the page that a test looks at: what keeps people from using it."""

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page


async def serious_problems(page: Page) -> list[str]:
    """Each serious or critical violation in a line: rule, what is wrong, where."""
    violations = (await Axe().run(page)).response["violations"]
    return [
        f"{found['id']}: {found['help']}: {[node['target'] for node in found['nodes']]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]
