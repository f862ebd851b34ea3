"""Everything that a device needs, looked at one by one: each with a verdict and a remedy."""

from edge_agent.adapters.doctor.answer import answers
from edge_agent.adapters.doctor.examine import examine
from edge_agent.adapters.doctor.finding import Finding, Verdict
from edge_agent.adapters.doctor.local import model_check

__all__ = ["Finding", "Verdict", "answers", "examine", "model_check"]
