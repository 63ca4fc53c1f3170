"""What happens to a span, by the number, the licenses and the removals of the documents that contain it."""

from ibidem.attribution.config import Action, PolicyConfig
from ibidem.attribution.lookup import Repetition, Source
from ibidem.data.licenses.policy import LicensePolicy


def decide(repetition: Repetition, policy: PolicyConfig) -> Action:
    """Return what happens to a span; of the documents that are named one that is not permitted decides."""
    if repetition.is_common:
        return policy.on_common
    licenses = LicensePolicy(denied=(), allowed=policy.permitted)
    permitted = all(_is_permitted(source, licenses) for source in repetition.sources)
    return policy.on_permitted if permitted else policy.on_other


def _is_permitted(source: Source, licenses: LicensePolicy) -> bool:
    expression = source.facts["license"]
    return not source.is_removed and expression is not None and not licenses.refuses(expression)
