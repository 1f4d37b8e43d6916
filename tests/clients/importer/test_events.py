"""Imports of events and consents, against a test server."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.importer.conftest import Ran
from tests.clients.importer.peer import Answer, Peer

Write = Callable[..., Path]
Run = Callable[..., Ran]

EVENTS = """\
kind = "events"
name = "visits"
historical = true

[consents]
data_collection = { source = "paper_form", policy_version = "2" }

[fields]
event_id = "{mapping}-{line}"
user_id = "u-{id}"
event_type = "transaction.purchase_complete"
timestamp = { from = "{at}T00:00:00Z", shift = true }
session_id = "s-{id}-{at}"
event_properties.amount = { from = "{amount}", type = "decimal" }
event_properties.currency = "USD"
device_info.device_type = "{device}"
referrer = "{device}"
"""
HEADER = "id,at,amount,device\n"
PROFILES = """\
kind = "profiles"

[consents]
data_collection = { source = "paper_form" }
profiling = { source = "paper_form", legal_basis = "contract" }

[fields]
user_id = "u-{id}"
email = "p{id}@example.com"
name = "Person"
signup_date = "{at}T00:00:00Z"
account_status = "active"
lifecycle_stage = "onboarding"
"""


def numbers(ran: Ran) -> list[str]:
    """Counts of the summary: rows, events, accepted, duplicates, consents granted (if any), rejected rows."""
    names = "rows|events|accepted|duplicates|consents granted|rejected rows"
    return re.findall(rf"^(?:{names}) +([0-9,]+) *$", ran.output, re.MULTILINE)


def visits(count: int, people: int) -> str:
    """A CSV with ``count`` events."""
    return HEADER + "".join(f"{n % people},2026-01-{n % 28 + 1:02},{n}.50,mobile\n" for n in range(count))


def know(peer: Peer, people: int) -> None:
    """Add people to the server."""
    peer.users = {f"u-{n}": {"user_id": f"u-{n}"} for n in range(people)}


def test_rows_become_events_of_people_who_have_consented(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 8)
    write("visits.csv", HEADER + "7,2026-01-05,29.30,mobile\n7,2026-01-06,0.00,\n")
    ran = run("visits.csv", mapping=EVENTS, shift_days=2)
    assert (ran.code, ran.errors, numbers(ran)) == (0, "", ["2", "2", "2", "0", "1", "0"])
    assert peer.events["visits-2"] == {
        "event_id": "visits-2",
        "user_id": "u-7",
        "event_type": "transaction.purchase_complete",
        "timestamp": "2026-01-07T00:00:00Z",
        "session_id": "s-7-2026-01-05",
        "event_properties": {"amount": "29.30", "currency": "USD"},
        "device_info": {"device_type": "mobile"},
        "referrer": "mobile",
    }
    assert peer.events["visits-3"]["event_properties"]["amount"] == "0.00"
    assert "device_info" not in peer.events["visits-3"]
    [request] = peer.requests
    assert request["historical"] is True
    assert peer.consents == {
        "u-7": {"data_collection": {"granted": True, "source": "paper_form", "policy_version": "2"}}
    }


def test_times_of_events_are_of_the_named_zone(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 1)
    write("visits.csv", HEADER + "0,2026-07-05 10:00:00,1.00,\n0,2026-07-05T10:00:00-04:00,1.00,\n")
    mapping = EVENTS.replace('{ from = "{at}T00:00:00Z", shift = true }', '"{at}"').replace(
        "s-{id}-{at}", "s-{id}"
    )
    assert run("visits.csv", mapping='timezone = "Europe/Berlin"\n' + mapping).code == 0
    times = [event["timestamp"] for event in peer.events.values()]
    assert times == ["2026-07-05T08:00:00Z", "2026-07-05T14:00:00Z"]


def test_new_data_is_not_marked_as_historical(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 1)
    write("visits.csv", visits(1, 1))
    assert run("visits.csv", mapping=EVENTS.replace("historical = true\n", "")).code == 0
    assert set(peer.requests[0]) == {"events"}


def test_a_second_run_changes_nothing_and_grants_nothing(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 20)
    write("visits.csv", visits(4500, 20))
    assert numbers(run("visits.csv", mapping=EVENTS)) == ["4,500", "4,500", "4,500", "0", "20", "0"]
    assert sorted(len(request["events"]) for request in peer.requests) == [500, 2000, 2000]
    assert sorted(itertools.chain(*peer.asked)) == sorted(f"u-{n} data_collection" for n in range(20))
    assert len(peer.asked) == 1
    again = run("visits.csv", mapping=EVENTS)
    assert (again.code, numbers(again)) == (0, ["4,500", "4,500", "0", "4,500", "0"])
    assert len(peer.asked) == 2


def test_consents_of_many_people_are_sent_a_thousand_at_a_time(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 1700)
    write("visits.csv", visits(1700, 1700))
    more = 'profiling = { source = "paper_form" }\nmarketing = { source = "paper_form" }\n[fields]'
    assert run("visits.csv", mapping=EVENTS.replace("[fields]", more)).code == 0
    assert [len(items) for items in peer.asked] == [999] * 5 + [1700 * 3 - 999 * 5]
    assert all(len(said) == 3 for said in peer.consents.values())
    assert len(peer.consents) == 1700


def test_a_withdrawn_consent_stays_withdrawn(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 2)
    withdrawn = {"granted": False, "source": "api"}
    peer.consents = {"u-0": {"data_collection": withdrawn}}
    write("visits.csv", visits(2, 2))
    ran = run("visits.csv", mapping=EVENTS)
    assert peer.consents["u-0"]["data_collection"] == withdrawn
    assert peer.consents["u-1"]["data_collection"]["granted"]
    assert numbers(ran)[-2] == "1"


def test_a_withdrawn_consent_is_granted_if_the_mapping_says_so_for_its_purpose(
    peer: Peer, write: Write, run: Run
) -> None:
    know(peer, 1)
    withdrawn = {"granted": False, "source": "api"}
    peer.consents = {"u-0": {"data_collection": withdrawn, "profiling": withdrawn}}
    write("visits.csv", visits(1, 1))
    consents = 'if_recorded = "replace" }\nprofiling = { source = "paper_form", if_recorded = "keep" }'
    assert run("visits.csv", mapping=EVENTS.replace('policy_version = "2" }', consents)).code == 0
    assert peer.consents["u-0"] == {
        "data_collection": {"granted": True, "source": "paper_form"},
        "profiling": withdrawn,
    }


def test_consents_in_profiles_leave_withdrawals_unless_the_mapping_says_otherwise(
    peer: Peer, write: Write, run: Run
) -> None:
    write("visits.csv", visits(1, 1))
    mapping = PROFILES + "consents.data_collection = true\n"
    mapping += 'consents.marketing = { from = "yes", type = "boolean" }\n'
    mapping += 'consents.profiling = { from = "yes", type = "boolean", if_recorded = "replace" }\n'
    assert run("visits.csv", mapping=mapping).code == 0
    assert peer.queries[0] == ("/users/batch", "keep_recorded=data_collection&keep_recorded=marketing")


def test_a_source_that_the_api_rejects_stops_the_import(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 1)
    peer.refuse_source = "too_long"
    write("visits.csv", visits(1, 1))
    ran = run("visits.csv", mapping=EVENTS)
    assert ran.code == 2
    assert (
        "rejects the consent 'data_collection' of the mapping's [consents]: 'source' is not right." in ran.errors
    )
    assert peer.events == {}


def test_the_people_of_rejected_profiles_get_no_consents(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 3)
    peer.refuse = {"u-1": "invalid_email"}
    write("visits.csv", visits(3, 3))
    assert run("visits.csv", mapping=PROFILES).code == 1
    assert sorted(peer.consents) == ["u-0", "u-2"]
    peer.refuse = dict.fromkeys(("u-0", "u-1", "u-2"), "invalid_email")
    peer.asked.clear()
    assert run("visits.csv", mapping=PROFILES).code == 1
    assert peer.asked == []


def test_consents_wait_for_the_rate_limit_too(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 3)
    peer.unusual.append(Answer(429, {}, {"retry-after": "1"}))
    write("visits.csv", visits(6, 3))
    ran = run("visits.csv", mapping=EVENTS)
    assert (ran.code, len(peer.events), len(peer.consents)) == (0, 6, 3)
    assert "limit of requests a minute; continuing in 1 s" in ran.output
    assert peer.times[-1] - peer.times[0] >= 1


def test_an_api_that_fails_on_a_consent_stops_the_import(peer: Peer, write: Write, run: Run) -> None:
    know(peer, 50)
    peer.unusual.extend([Answer(500, {"detail": "Something broke."})] * 3)
    write("visits.csv", visits(100, 50))
    ran = run("visits.csv", mapping=EVENTS, batch_size=10)
    assert ran.code == 2
    assert "The API refuses the request with 500: Something broke." in ran.errors
    assert len(peer.events) < 100


@pytest.mark.parametrize("all_of_them", [False, True])
def test_corrected_rejects_of_events_keep_their_ids(
    peer: Peer, write: Write, run: Run, tmp_path: Path, all_of_them: bool
) -> None:
    know(peer, 1 if not all_of_them else 0)
    write("visits.csv", visits(4, 2) + "0,2026-01-01,ten,mobile\n")
    ran = run("visits.csv", mapping=EVENTS)
    assert ran.code == 1
    assert numbers(ran)[-1] == ("5" if all_of_them else "3")
    with (tmp_path / "visits.rejects.csv").open(newline="") as file:
        rejects = {int(row["line"]): row for row in csv.DictReader(file)}
    assert (rejects[3]["pointer"], rejects[3]["code"]) == ("/user_id", "user_unknown")
    assert (rejects[6]["pointer"], rejects[6]["code"]) == ("/event_properties/amount", "not_a_decimal")
    know(peer, 2)
    mended = tmp_path / "visits.rejects.csv"
    mended.write_text(mended.read_text().replace("ten", "10"))
    assert run("visits.rejects.csv", mapping=EVENTS).code == 0
    assert sorted(peer.events) == [f"visits-{line}" for line in range(2, 7)]


def test_profiles_are_sent_before_their_consents(peer: Peer, write: Write, run: Run) -> None:
    peer.refuse = {"u-2": "invalid_email"}
    write("visits.csv", visits(3, 3))
    ran = run("visits.csv", mapping=PROFILES)
    assert ran.code == 1
    assert re.search(r"^consents granted +4 *$", ran.output, re.MULTILINE)
    said = {
        "data_collection": {"granted": True, "source": "paper_form"},
        "profiling": {"granted": True, "source": "paper_form", "legal_basis": "contract"},
    }
    assert peer.consents == {"u-0": said, "u-1": said}


def test_a_batch_may_not_exceed_the_routes_limit(peer: Peer, write: Write, run: Run) -> None:
    write("visits.csv", visits(1, 1))
    assert "between 1 and 2000 for events" in run("visits.csv", mapping=EVENTS, batch_size=2001).errors
    assert "between 1 and 1000 for profiles" in run("visits.csv", mapping=PROFILES, batch_size=1001).errors
