"""The attributes of a person that a workflow may know, by the consents of this moment."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from models.rules.activity import Activity
from models.rules.customer_value import customer_lifetime_value, purchase_frequency
from models.rules.profile import Profile
from models.temporal.profiles import KnownBehavior, KnownDemographics, KnownProfile, KnownTransactions
from models.vocabulary import Purpose


def known_profile(
    profile: Profile, activity: Activity, purpose: Purpose | None, now: datetime, expected_years: Decimal
) -> KnownProfile:
    """The attributes for a workflow with this purpose. ``expected_years`` is the setting `clv_expected_years`.

    A service knows the core attributes of the account. So does each workflow without its purpose's consent. The
    other groups need `data_collection` besides that consent, and the score needs `profiling` too.
    """
    core = KnownProfile(
        signup_date=profile.signup_date,
        account_status=profile.account_status,
        lifecycle_stage=profile.lifecycle_stage,
    )
    if purpose is None or not (profile.consents_to(purpose) and profile.consents_to(Purpose.DATA_COLLECTION)):
        return core
    total = activity.main_total
    value = customer_lifetime_value(activity, now, expected_years)
    return core.model_copy(
        update={
            "demographics": KnownDemographics.model_validate(profile.shown_demographics(now.date())),
            "behavior": KnownBehavior(
                session_count=activity.session_count,
                last_session_date=activity.last_session_date,
                engagement_score=activity.engagement_score(now, profiling=profile.consents_to(Purpose.PROFILING)),
            ),
            "transactions": KnownTransactions(
                total_purchases=activity.total_purchases,
                total_revenue=total.revenue if total else 0,
                currency=total.currency if total else None,
                last_purchase_date=activity.last_purchase_at,
                subscription_tier=profile.subscription_tier,
                purchase_frequency=purchase_frequency(activity, now),
                customer_lifetime_value=None if value is None else Decimal(value),
            ),
        }
    )
