"""What the machine tells of itself: temperature, throttling, power, battery, memory."""

from edge_agent.adapters.sensors.system import SystemSensors

__all__ = ["SystemSensors"]
