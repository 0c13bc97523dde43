"""The fields of KubeRay 1.6's `ray.io/v1` objects that cluster/kuberay uses, as a JSON schema; nothing else is allowed.

Written from the reference of the custom resources: https://docs.ray.io/en/master/cluster/kubernetes/references/api.html
"""

from __future__ import annotations

from typing import Any


def objects(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
RESOURCES = objects(
    limits={"type": "object", "additionalProperties": QUANTITY},
    requests={"type": "object", "additionalProperties": QUANTITY},
)
FROM_SECRET = objects(["secretKeyRef"], secretKeyRef=objects(["name", "key"], name=TEXT, key=TEXT))
CONTAINER = objects(
    ["name", "image", "resources"],
    name=TEXT,
    image=TEXT,
    ports={"type": "array", "items": objects(["containerPort"], containerPort=COUNT, name=TEXT)},
    env={"type": "array", "items": objects(["name"], name=TEXT, value=TEXT, valueFrom=FROM_SECRET)},
    resources=RESOURCES,
    volumeMounts={"type": "array", "items": objects(["mountPath", "name"], mountPath=TEXT, name=TEXT)},
)
VOLUME = objects(
    ["name"],
    name=TEXT,
    persistentVolumeClaim=objects(["claimName"], claimName=TEXT),
    configMap=objects(["name"], name=TEXT),
    emptyDir=objects(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
)
POD = objects(
    ["spec"],
    spec=objects(
        ["containers"],
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        volumes={"type": "array", "items": VOLUME},
    ),
)
CLUSTER_SPEC = objects(
    ["headGroupSpec", "rayVersion", "authOptions"],
    rayVersion=TEXT,
    authOptions=objects(["mode"], mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=objects(
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, idleTimeoutSeconds=COUNT
    ),
    gcsFaultToleranceOptions=objects(
        ["redisAddress"],
        redisAddress=TEXT,
        redisPassword=objects(value=TEXT, valueFrom=FROM_SECRET),
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=objects(
        ["template"],
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=TEXTS,
        template=POD,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": objects(
            ["groupName", "template", "minReplicas", "maxReplicas"],
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)
META = objects(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"})
RAY_CLUSTER = objects(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=META,
    spec=CLUSTER_SPEC,
)
RAY_JOB = objects(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=META,
    spec=objects(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        metadata=TEXTS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=CLUSTER_SPEC,
    ),
)
