"""The nine experiments of Temporal's guide to pre-production testing, in the guide's words and order.

https://docs.temporal.io/best-practices/pre-production-testing (docs/best-practices/pre-production-testing.mdx in the
repository temporalio/documentation). Each nemesis names the one that it covers.
"""

from __future__ import annotations

KILL_ALL = "Kill all Workers, then restart them"
RESTART_OFTEN = "Frequent Worker restart"
DOWNSTREAM_LOAD = "Validate downstream load capacity"
RATE_LIMIT = "Validate rate limiting behavior"
REGION_FAILOVER = "Test region failover"
DEPENDENCY = "Break the things your Workflows call"
VERSIONED_DEPLOY = "Deploy a Workflow change with versioning"
BROKEN_DEPLOY = "Deploy a version that causes NDEs, then recover"
NETWORK = "Remove network connectivity to a Namespace"

EXPERIMENTS: dict[str, str] = {
    KILL_ALL: "",
    RESTART_OFTEN: "",
    DOWNSTREAM_LOAD: "",
    RATE_LIMIT: "It tests the rate limits of Temporal's cloud; the local server has none.",
    REGION_FAILOVER: "It tests a feature of Temporal's cloud; the local server has one region.",
    DEPENDENCY: "",
    VERSIONED_DEPLOY: "",
    BROKEN_DEPLOY: "",
    NETWORK: "",
}
"""Each experiment, and why no nemesis covers it; "" for one that must be covered."""
