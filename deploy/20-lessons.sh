#!/bin/bash
# Sourced before a user's server starts: the lessons are copied, or brought up to date beside what was changed.
tensorlab lab "${HOME}/lessons" --copy
