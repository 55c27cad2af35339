from bus_mesh.bus import backoff


def test_a_young_outage_is_never_slept_through() -> None:
    pauses = [backoff.pause(failures, outage=29.9, roll=1.0) for failures in range(40)]

    assert pauses[:4] == [0.05, 0.1, 0.2, 0.25]
    assert max(pauses) == 0.25


def test_an_old_outage_is_asked_about_every_two_seconds_at_most() -> None:
    assert backoff.pause(100, outage=30.0, roll=1.0) == 2.0


def test_the_jitter_is_full() -> None:
    assert backoff.pause(3, outage=0.0, roll=0.0) == 0.0
    assert backoff.pause(3, outage=0.0, roll=0.5) == 0.125


def test_refused_credentials_are_shown_gently() -> None:
    assert backoff.refused_pause(0, roll=0.0) == 0.5
    assert backoff.refused_pause(1000, roll=1.0) == 30.0
