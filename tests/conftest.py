"""What holds for every test: examples that hypothesis draws are judged by what they show, never by how long they took."""

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
