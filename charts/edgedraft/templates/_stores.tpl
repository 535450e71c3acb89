{{/* Connection to the database and to Redis. */}}

{{- define "edgedraft.database.embedded" -}}
{{- if not (or .Values.database.existingSecret .Values.database.url) }}yes{{ end }}
{{- end }}

{{- define "edgedraft.redis.embedded" -}}
{{- if not (or .Values.redis.existingSecret .Values.redis.url) }}yes{{ end }}
{{- end }}

{{/* EDGEDRAFT_DATABASE; (dict "root" $ "secret" NAME), the Secret for a URL from the values. */}}
{{- define "edgedraft.databaseEnv" -}}
{{- $of := .root.Values.database }}
{{- if $of.existingSecret }}
{{- include "edgedraft.secretEnv" (dict "name" "EDGEDRAFT_DATABASE" "secret" $of.existingSecret "key" $of.existingSecretKey) }}
{{- else }}
{{- include "edgedraft.secretEnv" (dict "name" "EDGEDRAFT_DATABASE" "secret" .secret "key" "database-url") }}
{{- end }}
{{- end }}

{{- define "edgedraft.redisEnv" -}}
{{- $of := .Values.redis }}
{{- if $of.existingSecret }}
{{- include "edgedraft.secretEnv" (dict "name" "EDGEDRAFT_REDIS" "secret" $of.existingSecret "key" $of.existingSecretKey) }}
{{- else }}
{{- include "edgedraft.secretEnv" (dict "name" "EDGEDRAFT_REDIS" "secret" (include "edgedraft.secret" .) "key" "redis-url") }}
{{- end }}
{{- end }}
