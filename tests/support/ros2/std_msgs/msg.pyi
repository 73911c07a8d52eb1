class Time:
    sec: int
    nanosec: int

class Header:
    stamp: Time
    frame_id: str
