{{/* The pods of a verifier pool. */}}

{{/*
(dict "scope" SCOPE "of" POOL "member" ""|"leader"|"worker"). A worker of a group computes for its leader: it accepts
no sessions, has no token, and ends after the leader.
*/}}
{{- define "edgedraft.verifier.pod" -}}
{{- $root := .scope.root }}
{{- $pool := .of }}
{{- $serves := ne .member "worker" }}
{{- $vllm := eq $pool.engine "vllm" }}
{{- $gpus := int $pool.gpus }}
{{- $torchrun := and (gt $gpus 1) (not $vllm) }}
{{- $shared := or $vllm (gt $gpus 1) }}
{{- $cache := $pool.modelCache }}
{{- $tolerations := $pool.tolerations }}
{{- if $gpus }}
{{- $tolerations = append $tolerations (dict "key" $pool.gpuResource "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
metadata:
  labels:
    {{- include "edgedraft.labels" .scope | nindent 4 }}
    {{- with $pool.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $pool.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "edgedraft.podBasics" $root | nindent 2 }}
  securityContext:
    {{- include "edgedraft.podSecurity" 10001 | nindent 4 }}
  terminationGracePeriodSeconds: {{ add $pool.preStopSeconds $pool.drainSeconds (ternary 30 15 $vllm) }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: {{ ternary "verifier" "worker" $serves }}
      image: {{ include "edgedraft.image" (dict "root" $root "image" $pool.image "variant" (printf "%s%s" (ternary "-vllm" "" $vllm) (ternary "-cuda" "-cpu" (gt $gpus 0)))) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      {{- if $torchrun }}
      # One process per GPU, each with a slice of every layer.
      command: [torchrun, --standalone, "--nproc-per-node={{ $gpus }}", -m, edgedraft]
      {{- end }}
      args:
        - verifier
        {{- include "edgedraft.verifier.engineArgs" . | nindent 8 }}
      {{- if $serves }}
      ports:
        - {name: engine, containerPort: 9000, protocol: TCP}
      {{- end }}
      env:
        {{- if $serves }}
        - name: EDGEDRAFT_HOST
          value: "0.0.0.0"
        - name: EDGEDRAFT_PORT
          value: "9000"
        {{- end }}
        {{- if $vllm }}
        - name: EDGEDRAFT_ENGINE
          value: vllm
        {{- end }}
        - name: EDGEDRAFT_MODEL
          value: {{ $pool.model | quote }}
        {{- with $pool.servedName }}
        - name: EDGEDRAFT_SERVED_NAME
          value: {{ . | quote }}
        {{- end }}
        {{- if $serves }}
        {{- include "edgedraft.verifierTokenEnv" $root | nindent 8 }}
        - name: EDGEDRAFT_DRAIN_GRACE
          value: {{ $pool.drainSeconds | quote }}
        {{- end }}
        {{- if $torchrun }}
        # Seconds between SIGTERM and SIGKILL of torchrun to its processes.
        - name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT
          value: {{ add $pool.drainSeconds 10 | quote }}
        {{- end }}
        {{- if not (hasKey $pool.settings "logFormat") }}
        - name: EDGEDRAFT_LOG_FORMAT
          value: json
        {{- end }}
        {{- include "edgedraft.settingsEnv" $pool.settings | nindent 8 }}
        - name: EDGEDRAFT_CACHE
          value: /var/cache/edgedraft
        - name: HF_HOME
          value: /var/cache/edgedraft/huggingface
        {{- if $cache.readOnly }}
        - name: HF_HUB_OFFLINE
          value: "1"
        {{- end }}
        {{- with $pool.huggingFaceToken.existingSecret }}
        {{- include "edgedraft.secretEnv" (dict "name" "HF_TOKEN" "secret" . "key" $pool.huggingFaceToken.key) | nindent 8 }}
        {{- end }}
        {{- if $vllm }}
        - name: VLLM_CACHE_ROOT
          value: /var/cache/vllm
        - name: TORCHINDUCTOR_CACHE_DIR
          value: /var/cache/vllm/torchinductor
        - name: TRITON_CACHE_DIR
          value: /var/cache/vllm/triton
        {{- end }}
        {{- if .member }}
        # The address that the other pods of the group connect to.
        - name: VLLM_HOST_IP
          valueFrom:
            fieldRef: {fieldPath: status.podIP}
        {{- end }}
        {{- include "edgedraft.otelEnv" $root | nindent 8 }}
        {{- with $pool.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if $serves }}
      # Listens when the model is loaded; the startup probe waits for that.
      startupProbe:
        httpGet: {path: /healthz, port: engine}
        periodSeconds: 10
        failureThreshold: {{ max 1 (div (add $pool.startupSeconds 9) 10) }}
      livenessProbe:
        httpGet: {path: /healthz, port: engine}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: engine}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      lifecycle:
        preStop:
          sleep: {seconds: {{ $pool.preStopSeconds }}}
      {{- else }}
      # After SIGTERM it keeps running while its leader drains.
      lifecycle:
        preStop:
          exec:
            command: [python, -c, {{ $root.Files.Get "files/leader_gone.py" | toJson }}]
      {{- end }}
      resources:
        {{- $resources := deepCopy $pool.resources }}
        {{- if $gpus }}
        {{- $resources = mergeOverwrite $resources (dict "limits" (dict $pool.gpuResource (toString $gpus))) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "edgedraft.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: models, mountPath: /var/cache/edgedraft, readOnly: {{ $cache.readOnly }}}
        {{- if $vllm }}
        - {name: compiled, mountPath: /var/cache/vllm}
        {{- end }}
        {{- if $shared }}
        - {name: shm, mountPath: /dev/shm}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 2Gi}
    {{- if $vllm }}
    - name: compiled  # kernels and graphs compiled at start
      emptyDir: {sizeLimit: 10Gi}
    {{- end }}
    {{- if $shared }}
    - name: shm  # shared memory of the processes of a pod
      emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory }}}
    {{- end }}
    {{- if eq $cache.type "claim" }}
    - name: models
      persistentVolumeClaim: {claimName: {{ required "modelCache.type claim needs modelCache.existingClaim" $cache.existingClaim }}, readOnly: {{ $cache.readOnly }}}
    {{- else if eq $cache.type "host" }}
    - name: models
      hostPath: {path: {{ required "modelCache.type host needs modelCache.hostPath" $cache.hostPath }}, type: Directory}
    {{- else if eq $cache.type "empty" }}
    - name: models
      emptyDir: {sizeLimit: {{ $cache.size }}}
    {{- end }}
  {{- /* A group must not be spread over zones. */}}
  {{- $over := ternary (list "kubernetes.io/hostname") (list "kubernetes.io/hostname" "topology.kubernetes.io/zone") (ne .member "") }}
  {{- include "edgedraft.placement" (dict "of" $pool "labels" (include "edgedraft.selector" .scope) "tolerations" $tolerations "over" $over) | nindent 2 }}
{{- end }}

{{/*
vLLM's arguments: tensor parallel over the GPUs of a pod and pipeline parallel over pods, which the pool's engineArgs
may override; then the pod's rank and the leader's address.
*/}}
{{- define "edgedraft.verifier.engineArgs" -}}
{{- $pool := .of }}
{{- $args := list }}
{{- if and (eq $pool.engine "vllm") (gt (int $pool.gpus) 1) }}
{{- $args = concat $args (list "--tensor-parallel-size" (toString $pool.gpus)) }}
{{- end }}
{{- if .member }}
{{- $args = concat $args (list "--pipeline-parallel-size" (toString $pool.nodes)) }}
{{- end }}
{{- $args = concat $args $pool.engineArgs }}
{{- if .member }}
{{- $args = concat $args (list "--nnodes" (toString $pool.nodes) "--node-rank" "$(LWS_WORKER_INDEX)") }}
{{- $args = concat $args (list "--master-addr" "$(LWS_LEADER_ADDRESS)" "--master-port" "29501") }}
{{- end }}
{{- if $args }}
{{- prepend $args "--" | toYaml }}
{{- end }}
{{- end }}

{{/* Volume claims of a persistent cache. */}}
{{- define "edgedraft.verifier.claims" -}}
- metadata:
    name: models
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .size }}}
{{- end }}
