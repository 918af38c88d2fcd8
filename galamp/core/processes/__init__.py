"""Parent: throw-away processes that try something out, how processes ended, and orphans."""
