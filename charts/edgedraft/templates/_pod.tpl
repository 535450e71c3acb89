{{/* Parts that all pods share. */}}

{{- define "edgedraft.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "edgedraft.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
enableServiceLinks is off: a Service named edgedraft would set EDGEDRAFT_PORT, which is a setting, in every pod.
*/}}
{{- define "edgedraft.podBasics" -}}
serviceAccountName: {{ include "edgedraft.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "of" VALUES "labels" SELECTOR "tolerations" LIST "over" TOPOLOGY-KEYS) */}}
{{- define "edgedraft.placement" -}}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if .of.topologySpreadConstraints }}
  {{- toYaml .of.topologySpreadConstraints | nindent 2 }}
{{- else }}
  {{- range default (list "kubernetes.io/hostname" "topology.kubernetes.io/zone") .over }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $.labels | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Settings in camelCase as EDGEDRAFT_* variables. */}}
{{- define "edgedraft.settingsEnv" -}}
{{- range $name, $value := . }}
- name: EDGEDRAFT_{{ snakecase $name | upper }}
  value: {{ include "edgedraft.plain" $value | quote }}
{{- end }}
{{- end }}

{{/* A value as text for a variable: lists with commas, integers without an exponent. */}}
{{- define "edgedraft.plain" -}}
{{- if kindIs "slice" . }}
{{- $parts := list }}
{{- range . }}{{ $parts = append $parts (include "edgedraft.plain" .) }}{{ end }}
{{- join "," $parts }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* (dict "name" VARIABLE "secret" NAME "key" KEY) */}}
{{- define "edgedraft.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{/* A Secret of auth; (dict "root" $ "name" VARIABLE "of" VALUES "key" KEY), the key in the chart's own Secret. */}}
{{- define "edgedraft.authEnv" -}}
{{- $given := .of.existingSecret }}
{{- $secret := default (include "edgedraft.secret" .root) $given }}
{{- include "edgedraft.secretEnv" (dict "name" .name "secret" $secret "key" (ternary .of.key .key (not (empty $given)))) }}
{{- end }}

{{- define "edgedraft.verifierTokenEnv" -}}
{{- include "edgedraft.authEnv" (dict "root" . "name" "EDGEDRAFT_VERIFIER_TOKEN" "of" .Values.auth.verifierToken "key" "verifier-token") }}
{{- end }}

{{- define "edgedraft.replicaSecretEnv" -}}
{{- include "edgedraft.authEnv" (dict "root" . "name" "EDGEDRAFT_REPLICA_SECRET" "of" .Values.auth.replicaSecret "key" "replica-secret") }}
{{- end }}

{{/* (dict "root" $ "name" VARIABLE) */}}
{{- define "edgedraft.keyEnv" -}}
{{- $key := .root.Values.auth.key }}
{{- if or $key.create $key.existingSecret }}
{{- include "edgedraft.authEnv" (dict "root" .root "name" .name "of" $key "key" "key") }}
{{- end }}
{{- end }}

{{- define "edgedraft.otelEnv" -}}
{{- with .Values.otel.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}
