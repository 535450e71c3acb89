{{/* Names and labels. */}}

{{- define "edgedraft.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 24 | trimSuffix "-" }}
{{- end }}

{{- define "edgedraft.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 24 | trimSuffix "-" }}
{{- else if contains (include "edgedraft.name" .) .Release.Name }}
{{- .Release.Name | trunc 24 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "edgedraft.name" .) | trunc 24 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Called with (dict "root" $ "component" C) and, for verifiers, "pool". */}}
{{- define "edgedraft.selector" -}}
app.kubernetes.io/name: {{ include "edgedraft.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
edgedraft.io/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "edgedraft.labels" -}}
{{ include "edgedraft.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "edgedraft.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "edgedraft.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "image" IMAGE "variant" "-cpu") */}}
{{- define "edgedraft.image" -}}
{{- $tag := default (printf "%s%s" (default .root.Chart.AppVersion .root.Values.image.tag) (default "" .variant)) .image.tag }}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ $tag }}
{{- end }}

{{/* The name of the Secret that the chart makes. */}}
{{- define "edgedraft.secret" -}}
{{ include "edgedraft.fullname" . }}
{{- end }}

{{- define "edgedraft.verifier.name" -}}
{{ include "edgedraft.fullname" .root }}-verifier-{{ .pool }}
{{- end }}

{{/*
The name of a pool of groups. The LeaderWorkerSet's controller creates a Service of the same name, by which pods find
each other before they are ready. Names of a group's StatefulSets are up to four characters longer.
*/}}
{{- define "edgedraft.verifier.groups" -}}
{{ include "edgedraft.fullname" .root }}-vllm-{{ .pool }}
{{- end }}

{{/* Selector of the pods that gateways connect to: in a group, the leader. Called with (dict "scope" SCOPE "of" POOL). */}}
{{- define "edgedraft.verifier.served" -}}
{{ include "edgedraft.selector" .scope }}
{{- if gt (int .of.nodes) 1 }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end }}
