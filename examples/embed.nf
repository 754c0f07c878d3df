// Embeddings in shards: nextflow run embed.nf --fasta proteins.fasta --model MODEL --shards 100
// On a cluster, add to nextflow.config: process.executor = 'slurm'
params.shards = 8
params.output = 'embeddings.h5'

process embed {
    cpus 1

    input:
    tuple val(part), path(fasta), path(model)

    output:
    path "${part}.h5"

    script:
    """
    OMP_NUM_THREADS=${task.cpus} protlm embed ${fasta} -o ${part}.h5 --shard ${part}/${params.shards} --model ${model}
    """
}

process merge {
    publishDir '.', mode: 'move'

    input:
    path parts

    output:
    path params.output

    script:
    """
    protlm merge ${parts} -o ${params.output}
    """
}

workflow {
    shards = Channel.of(1..params.shards.toInteger()).map { [it, file(params.fasta), file(params.model)] }
    embed(shards).collect() | merge
}
