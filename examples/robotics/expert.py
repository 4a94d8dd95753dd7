"""A scripted expert for PushT: try pushes in a simulator, go around the block to the best one, push, look again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gym_pusht  # noqa: F401 (registers the environment)
import gymnasium
import numpy as np
from shapely.geometry import LineString, Point, Polygon

OUTLINE = np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], float)
GOAL = np.array([256, 256, np.pi / 4])
REACH, ROUND, STRIDE = 17.0, 115.0, 30.0  # pixels: the agent's radius and a little; the way around; a step of travel
PUSHES = (2.0, 5.0, 12.0)  # pixels a step


def make_env() -> Any:
    """PushT, observed as agent x, y, block x, y, angle; at most 300 steps."""
    return gymnasium.make("gym_pusht/PushT-v0", obs_type="state", max_episode_steps=300)


def outline(pose: np.ndarray) -> np.ndarray:
    """The block's corners [8, 2] in pixels. pose: x, y, angle."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return OUTLINE @ np.array([(c, s), (-s, c)]) + pose[:2]


def distance(pose: np.ndarray) -> float:
    """Of the corners from where they belong, in pixels, on average."""
    return float(np.linalg.norm(outline(pose) - outline(GOAL), axis=1).mean())


class Push(NamedTuple):
    start: np.ndarray  # [2], beside the block
    stride: np.ndarray  # [2], of the target in a step
    steps: int
    score: float  # distance after it


class Simulator:
    """Another PushT, to try pushes in.

    The agent follows its target by its own law, whatever it meets: from rest its velocity is this multiple of the
    target's stride, in each step of time.
    """

    def __init__(self, most: int = 16) -> None:
        self.env = env = make_env().unwrapped
        env.reset(seed=0)
        env.collision_handeler.post_solve = lambda *_: None  # nobody counts its contacts
        x, v, self.speeds = 0.0, 0.0, []
        for i in range(1, most + 1):
            for _ in range(10):
                v += (env.k_p * (i - x) - env.k_v * v) * env.dt
                x += v * env.dt
                self.speeds.append(v)

    def push(self, pose: np.ndarray, start: np.ndarray, stride: np.ndarray) -> tuple[int, float]:
        """(steps, distance): the best number of steps of one push, and the distance of the block after them."""
        space, agent, block, dt = self.env.space, self.env.agent, self.env.block, self.env.dt
        block.angle, block.position = float(pose[2]), tuple(map(float, pose[:2]))
        agent.position, (along, down) = tuple(map(float, start)), map(float, stride)
        best, rising = (1, np.inf), 0
        for k, speed in enumerate(self.speeds, 1):
            agent.velocity = speed * along, speed * down
            space.step(dt)
            if k % 10 == 0:
                now = distance(np.array([*block.position, block.angle]))
                rising = 0 if now <= best[1] + 0.5 else rising + 1
                best = min(best, (k // 10, now), key=lambda found: found[1])
                if rising == 3:
                    break
        return best


def places(pose: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(start, direction) of pushes at right angles to the edges, from where there is room for the agent."""
    corners = outline(pose)
    block = Polygon(corners)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (b - a) / np.linalg.norm(b - a)
        normal = np.array([along[1], -along[0]])
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            start = a + share * (b - a) + (REACH + 1) * normal
            if (start > 22).all() and (start < 490).all() and block.distance(Point(start)) > REACH - 1:
                yield start, -normal


def best_push(simulator: Simulator, agent: np.ndarray, pose: np.ndarray) -> Push:
    """The push after which the block is nearest; a way around it costs as much as a pixel for 60."""
    pushes = []
    for start, direction in places(pose):
        for speed in PUSHES:
            steps, after = simulator.push(pose, start, speed * direction)
            pushes.append(Push(start, speed * direction, steps, after + np.linalg.norm(start - agent) / 60))
    return min(pushes, key=lambda push: push.score)


def way(agent: np.ndarray, goal: np.ndarray, pose: np.ndarray) -> list[np.ndarray]:
    """Targets from the agent to the goal: straight, or out, around the block, and in."""
    block = Polygon(outline(pose))
    center = np.array(block.centroid.coords[0])
    stops = [goal]
    if LineString([agent, goal]).distance(block) < REACH - 1.5:
        angles = [np.arctan2(*(p - center)[::-1]) for p in (agent, goal)]
        turn = (angles[1] - angles[0] + np.pi) % (2 * np.pi) - np.pi
        turns = angles[0] + np.linspace(0, 1, 2 + int(abs(turn) / 0.3)) * turn
        stops = [np.clip(center + ROUND * np.array([np.cos(t), np.sin(t)]), 25, 487) for t in turns] + [goal]
    targets, at = [], agent
    for stop in stops:
        n = max(1, int(np.ceil(np.linalg.norm(stop - at) / STRIDE)))
        targets += [at + (stop - at) * i / n for i in range(1, n + 1)]
        at = stop
    return [*targets, goal, goal]


def episode(env: Any, simulator: Simulator, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(observations [T, 5], actions [T, 2], greatest coverage) of the expert's run from a seed's start."""
    seen, _ = env.reset(seed=seed)
    observations, actions, coverage, todo, pushed = [], [], 0.0, [], np.zeros(3)
    while True:
        pose = seen[2:]
        if not todo:
            push = best_push(simulator, seen[:2], pose)
            pushed = pose
            todo = [(t, True) for t in way(seen[:2], push.start, pose)]
            todo += [(push.start + i * push.stride, False) for i in range(1, push.steps + 1)]
        target, travelling = todo.pop(0)
        if travelling and np.linalg.norm(pose[:2] - pushed[:2]) > 3:  # touched it on the way
            todo = []
            continue
        action = np.clip(target, 0, 512)
        observations.append(seen)
        actions.append(action)
        seen, _, success, late, info = env.step(action)
        coverage = max(coverage, info["coverage"])
        if success or late:
            return np.array(observations), np.array(actions), float(coverage)
