# With tests: envicutor run examples/sum/sum.py --test examples/sum/*.in
print(sum(int(number) for number in input().split()))
