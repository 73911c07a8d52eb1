"""ROS 2 node: the newest metric depth of a camera on /camera/depth/image (REP 118): ros2_node.py SOURCE METRIC_MODEL"""

import sys

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

import streamdepth as sd


class DepthNode(Node):
    def __init__(self, source: str, model: str) -> None:
        super().__init__("streamdepth")
        self.results = sd.stream(source, sd.DepthEstimator(model), policy="latest")
        self.publisher = self.create_publisher(Image, "camera/depth/image", 1)
        self.timer = self.create_timer(0.005, self.publish_newest)

    def publish_newest(self) -> None:
        newest = self.results.latest()  # does not wait
        if newest is None:
            return
        frame, depth = newest
        metres = depth.values if depth.valid is None else np.where(depth.valid, depth.values, np.float32(np.nan))
        message = Image(height=depth.height_px, width=depth.width_px, encoding="32FC1", step=4 * depth.width_px)
        message.header.frame_id = "camera_optical_frame"
        stamp_ns = self.results.captured_wall_ns(frame)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        message.data.frombytes(metres.tobytes())
        self.publisher.publish(message)


if __name__ == "__main__":
    rclpy.init()
    node = DepthNode(*sys.argv[1:3])
    with node.results:
        rclpy.spin(node)
