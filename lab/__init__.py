"""The lab: an AWS region on one Linux machine, whose instances are real hosts."""
