# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the package ``trackio`` that misbehaves as ``FAKE_TRACKER`` says: there is no real one that does."""

FAKE_TRACKIO = """
import os, time

def misbehave(moment):
    how = os.environ["FAKE_TRACKER"].split("-")
    if how[0] == "sleep" and how[1] in (moment, "everywhere"):
        while True:
            time.sleep(1)
    if how[0] == "raise" and how[1] in (moment, "everywhere"):
        raise ConnectionError("no such\\nserver")

class Run:
    def log(self, values, step=None):
        misbehave("log")
        with open(os.environ["FAKE_ROWS"], "a") as file:
            print(step, sorted(values), file=file)
    def finish(self):
        misbehave("finish")

class Config(dict):
    def update(self, values, allow_val_change=False):
        pass

config = Config()

def init(project, name, resume):
    misbehave("start")
    return Run()
"""
