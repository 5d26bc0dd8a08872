"""One alert event, from which tests make others."""

from agent.alerts.event import AlertEvent, EventFrame
from tests.support.agents import START

EVENT = AlertEvent(
    event_type="on",
    id="9f-on",
    rule="bag",
    camera="yard",
    condition="a bag is left by the door",
    message="bag: a bag is left by the door (yard)",
    start_time=START,
    time=START + 1.5,
    end_time=None,
    confirmations=(2, 3),
    score=4.25,
    model="tiny",
    latency_s=0.5,
    frames=(EventFrame(7, START, "/v1/frames/7.jpg?exp=1&sig=x"),),
    clip_url="/v1/cameras/yard/export?after=1&before=2&exp=1&sig=x",
    image_topic=None,
)
