"""A request, whichever way it came, as the question that an agent can be asked."""

from agent.app import Agent
from agent.ask.question import Question
from agent.errors import BadRequest
from agent.runtime import pools
from agent.web.openai import ChatRequest, parse_moment


async def question_of(agent: Agent, asked: ChatRequest) -> Question:
    """What is asked, checked. Raises BadRequest or UnknownCamera."""
    text = asked.question()
    cameras = await pools.questions(agent.existing, asked.named_cameras())
    zone = agent.zone_of(cameras[0]) if cameras else "UTC"
    after, before = parse_moment(asked.after, zone, "after"), parse_moment(asked.before, zone, "before")
    if after is not None and before is not None and after >= before:
        raise BadRequest("'after' must be earlier than 'before'.", param="after")
    limit, temperature = asked.max_new_tokens(), asked.temperature or 0.0
    return Question(text, cameras, after, before, limit, temperature, asked.place(), asked.earlier())
