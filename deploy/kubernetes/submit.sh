#!/usr/bin/env bash
# submit.sh STAGE [key=value | FILE ...]: one stage as a Spark application on Kubernetes, executors in pods of their own.
# Every pod needs the image of deploy/Dockerfile and the same volume; the service account must be allowed to create pods.
set -euo pipefail
: "${K8S_API:?the API server, for example https://10.0.0.1:6443}" "${IMAGE:?the image of deploy/Dockerfile}"
stage=${1:?the name of a file in jobs/}
shift
exec spark-submit \
    --master "k8s://$K8S_API" --deploy-mode cluster --name "recsys-$stage" \
    --conf spark.kubernetes.namespace="${NAMESPACE:-default}" \
    --conf spark.kubernetes.authenticate.driver.serviceAccountName="${SERVICE_ACCOUNT:-spark}" \
    --conf spark.kubernetes.container.image="$IMAGE" \
    --conf spark.executor.instances="${EXECUTORS:-2}" --conf spark.executor.memory=4g --conf spark.driver.memory=4g \
    --conf spark.kubernetes.driver.volumes.persistentVolumeClaim.data.options.claimName="${CLAIM:-recsys-data}" \
    --conf spark.kubernetes.driver.volumes.persistentVolumeClaim.data.mount.path=/data \
    --conf spark.kubernetes.executor.volumes.persistentVolumeClaim.data.options.claimName="${CLAIM:-recsys-data}" \
    --conf spark.kubernetes.executor.volumes.persistentVolumeClaim.data.mount.path=/data \
    --conf spark.kubernetes.driverEnv.RECSYS_DATA=/data/raw --conf spark.kubernetes.driverEnv.RECSYS_OUT=/data/out \
    "local:///opt/recsys_spark/jobs/$stage.py" conf/pipelines/ml-1m.yaml conf/env/kubernetes.yaml "$@"
