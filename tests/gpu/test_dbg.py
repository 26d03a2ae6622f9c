def test_it(healthy_run, sampler_run, faults_run, second_run):
    for r in (second_run, healthy_run, sampler_run, faults_run):
        print("=======", r.directory, r.exit_code); print(r.output[-6000:])
        if r is not second_run: print(r.findings())
