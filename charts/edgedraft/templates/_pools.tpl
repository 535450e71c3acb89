{{/* Verifier pools: the pool's values merged over verifierDefaults. */}}

{{/* All pools with all values, as YAML: callers use fromYaml. */}}
{{- define "edgedraft.pools" -}}
{{- $given := .Values.verifiers }}
{{- if and (not $given) (not .Values.externalVerifiers) }}
{{- $small := dict "requests" (dict "cpu" "1" "memory" "3Gi") }}
{{- $given = dict "demo" (dict "model" "smollm2-135m-instruct" "resources" $small "modelCache" (dict "size" "5Gi")) }}
{{- end }}
{{- $pools := dict }}
{{- range $name, $pool := $given }}
{{- if $pool }}
{{- $merged := mergeOverwrite (deepCopy $.Values.verifierDefaults) $pool }}
{{- $groups := gt (int $merged.nodes) 1 }}
{{- if and (ne $merged.engine "vllm") (or $groups $merged.engineArgs) }}
{{- fail (printf "verifiers.%s: nodes and engineArgs need engine: vllm" $name) }}
{{- end }}
{{- if and $groups (regexMatch "-[0-9]+$" $name) }}
{{- fail (printf "verifiers.%s: with nodes a name must not end in a number, as those of its groups do" $name) }}
{{- end }}
{{- $_ := set $pools $name $merged }}
{{- end }}
{{- end }}
{{- toYaml $pools }}
{{- end }}

{{/* URLs of verifiers for gateways: pools by DNS name, external ones unchanged. */}}
{{- define "edgedraft.verifierUrls" -}}
{{- $urls := list }}
{{- range $name, $_ := include "edgedraft.pools" . | fromYaml }}
{{- $service := include "edgedraft.verifier.name" (dict "root" $ "pool" $name) }}
{{- $urls = append $urls (printf "dns+ws://%s.%s.svc.%s:9000" $service $.Release.Namespace $.Values.clusterDomain) }}
{{- end }}
{{- join "," (concat $urls .Values.externalVerifiers) }}
{{- end }}
