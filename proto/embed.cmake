# cmake -DIN=file -DOUT=file.c -P embed.cmake: openapi.json as bytes.
file(READ ${IN} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],){24})" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "/* Made from openapi.json. */\n#include \"proto/openapi.h\"\n\n"
     "const unsigned char sc_openapi_json[] = {\n${bytes}0};\nconst size_t sc_openapi_json_size = ${size};\n")
